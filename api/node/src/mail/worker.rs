//! The mail worker: sends queued e-mails one after another. Every node has one worker, and no two send the same e-mail.

use std::sync::Arc;
use std::time::Duration;

use fulexo_commands::{Commands, OutgoingMail};
use fulexo_database::chain;
use tokio::time::sleep;

use super::texts::{self, MailFacts};
use super::{Letter, Transport};
use crate::clock;

/// The poll interval of an empty queue.
const LOOK: Duration = Duration::from_millis(500);
/// The pause after a failure of the database.
const PAUSE: Duration = Duration::from_secs(5);

/// The mail worker of a node.
pub struct Worker {
    /// The queue of e-mails.
    pub commands: Arc<Commands>,
    /// The transport of e-mails.
    pub transport: Transport,
    /// The base URL of links.
    pub public_url: String,
}

impl Worker {
    /// Sends e-mails until it is dropped. Another node, or the next start, sends an e-mail that was interrupted.
    pub async fn run(self) {
        loop {
            match self.commands.next_mail(clock::now()).await {
                Ok(Some(mail)) => self.send(mail).await,
                Ok(None) => sleep(LOOK).await,
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "cannot read the queue of e-mails");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    async fn send(&self, mail: OutgoingMail) {
        let (id, kind) = (mail.id, mail.kind.as_str());
        let facts = MailFacts {
            kind: mail.kind,
            token: &mail.token,
            at: mail.at,
            ip: mail.ip.as_deref(),
            user_agent: mail.user_agent.as_deref(),
        };
        let (subject, text) = texts::letter(&self.public_url, &facts);
        let letter = Letter { to: mail.to.clone(), subject, text, id };
        // An error has neither the address nor the text.
        let noted = match self.transport.send(&letter).await {
            Ok(()) => mail.sent().await,
            Err(error) => match mail.failed(error.is_permanent(), clock::now()).await {
                Ok(true) => {
                    tracing::error!(mail_id = %id, kind, error = %chain(&error), "an e-mail was given up");
                    Ok(())
                }
                Ok(false) => {
                    tracing::warn!(mail_id = %id, kind, error = %chain(&error), "an e-mail was not sent, and will be tried again");
                    Ok(())
                }
                Err(error) => Err(error),
            },
        };
        if let Err(error) = noted {
            tracing::warn!(mail_id = %id, kind, error = %chain(&error), "cannot record the outcome of an e-mail");
            sleep(PAUSE).await;
        }
    }
}
