//! The mail of a node in tests: files in its own directory, read as a mail program would read them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::smtp::Mail;

/// A directory that mail is written to; removed when dropped.
pub struct Mailbox {
    dir: PathBuf,
}

impl Mailbox {
    /// Creates an empty one.
    #[must_use]
    pub fn create() -> Self {
        Self { dir: std::env::temp_dir().join(format!("fulexo-mail-{}", crate::operator().new_id())) }
    }

    /// Returns the variables that have a node write here.
    #[must_use]
    pub fn env(&self) -> BTreeMap<String, String> {
        let dir = self.dir.to_str().unwrap().to_owned();
        let variables = [
            ("FULEXO_MAIL_DIR", dir.as_str()),
            ("MAIL_FROM", "Fulexo <no-reply@example.com>"),
            ("FULEXO_PUBLIC_URL", "https://id.example.com"),
        ];
        variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }

    /// Returns the mail that has arrived for this address, in the order of arrival.
    #[must_use]
    pub fn to(&self, address: &str) -> Vec<Mail> {
        let Ok(entries) = std::fs::read_dir(&self.dir) else { return Vec::new() };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "eml"));
        paths.sort();
        let mails = paths.iter().map(|path| Mail::of(std::fs::read_to_string(path).unwrap()));
        mails.filter(|mail| mail.to.iter().any(|to| to.contains(address))).collect()
    }

    /// Waits for the first mail to this address whose link leads to this page.
    pub async fn expect(&self, address: &str, page: &str) -> Mail {
        self.expect_nth(address, page, 0).await
    }

    /// Does the same, but skips the first `nth` mails.
    pub async fn expect_nth(&self, address: &str, page: &str, nth: usize) -> Mail {
        let looking = async {
            loop {
                if let Some(mail) = self.to(address).into_iter().filter(|mail| mail.leads_to(page)).nth(nth) {
                    return mail;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_secs(30), looking).await.unwrap_or_else(|_| panic!("no mail {nth} to {page}"))
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
