//! Sends what waits, one mail after another; every node has one, and none sends what another is sending.

use std::sync::Arc;
use std::time::Duration;

use fulexo_commands::{Commands, OutgoingMail};
use tokio::time::sleep;

use super::texts::{self, Facts};
use super::{Letter, Transport};
use crate::clock;

/// Between two looks, when nothing waits.
const LOOK: Duration = Duration::from_millis(500);
/// After the database failed.
const PAUSE: Duration = Duration::from_secs(5);

/// A worker of one node.
pub struct Worker {
    /// What knows what waits.
    pub commands: Arc<Commands>,
    /// How it is sent.
    pub transport: Transport,
    /// Where links lead.
    pub public_url: String,
}

impl Worker {
    /// Sends until it is dropped. A mail that it is just sending then is sent by another node, or after the next start.
    pub async fn run(self) {
        loop {
            match self.commands.next_mail(clock::now()).await {
                Ok(Some(mail)) => self.send(mail).await,
                Ok(None) => sleep(LOOK).await,
                Err(error) => {
                    tracing::warn!(%error, "mail that waits cannot be read");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    async fn send(&self, mail: OutgoingMail) {
        let (id, kind) = (mail.id, mail.kind.as_str());
        let facts = Facts {
            kind: mail.kind,
            token: &mail.token,
            at: mail.at,
            ip: mail.ip.as_deref(),
            user_agent: mail.user_agent.as_deref(),
        };
        let (subject, text) = texts::letter(&self.public_url, &facts);
        let letter = Letter { to: mail.to.clone(), subject, text, id };
        // Neither address nor text is in an error.
        let noted = match self.transport.send(&letter).await {
            Ok(()) => mail.sent().await,
            Err(error) => match mail.failed(error.is_permanent(), clock::now()).await {
                Ok(true) => {
                    tracing::error!(mail_id = %id, kind, %error, "a mail was given up");
                    Ok(())
                }
                Ok(false) => {
                    tracing::warn!(mail_id = %id, kind, %error, "a mail could not be sent, and is tried again");
                    Ok(())
                }
                Err(error) => Err(error),
            },
        };
        if let Err(error) = noted {
            tracing::warn!(mail_id = %id, kind, %error, "what became of a mail could not be noted");
            sleep(PAUSE).await;
        }
    }
}
