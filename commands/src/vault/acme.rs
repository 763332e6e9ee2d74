//! What nodes share to have one certificate between them: the account at an ACME directory (RFC 8555) and the
//! certificate, both sealed under a key of the service, and whose turn it is to order. Speaks to no directory.

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use zeroize::Zeroizing;

use super::crypto::{SealedValue, SymmetricKey, UnsealError};
use super::key_hierarchy::{Vault, VaultError};

/// One list of names at one directory.
#[derive(Clone)]
pub struct AcmeStore {
    pool: PgPool,
    key: SymmetricKey,
    directory: String,
    names: String,
}

/// An account at the directory.
pub struct AcmeAccount {
    /// As the ACME client wrote them.
    pub credentials: Zeroizing<Vec<u8>>,
    /// Of the account's public key (RFC 7638).
    pub thumbprint: String,
}

/// A certificate.
pub struct AcmeCertificate {
    /// Chain and private key, in PEM.
    pub pem: Zeroizing<Vec<u8>>,
    /// Counts the certificates for these names.
    pub version: i64,
}

impl Vault {
    /// What is kept about these names at this directory.
    #[must_use]
    pub fn acme(&self, directory: &str, names: &[String]) -> AcmeStore {
        AcmeStore {
            pool: self.pool.clone(),
            key: self.service.derive("fulexo/acme/1"),
            directory: directory.to_owned(),
            names: names.join(","),
        }
    }
}

impl AcmeStore {
    /// The account, if there is one.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn account(&self) -> Result<Option<AcmeAccount>, VaultError> {
        let row =
            sqlx::query!("select credentials, thumbprint from vault.acme_account where directory = $1", self.directory)
                .fetch_optional(&self.pool)
                .await?;
        let Some(row) = row else { return Ok(None) };
        let credentials = self.open(&self.account_context(), &row.credentials)?;
        Ok(Some(AcmeAccount { credentials, thumbprint: row.thumbprint }))
    }

    /// The thumbprint of the account, for a node that has not read the rest of it.
    ///
    /// # Errors
    /// [`VaultError::Database`].
    pub async fn thumbprint(&self) -> Result<Option<String>, VaultError> {
        let thumbprint =
            sqlx::query_scalar!("select thumbprint from vault.acme_account where directory = $1", self.directory)
                .fetch_optional(&self.pool)
                .await?;
        Ok(thumbprint)
    }

    /// Keeps an account, unless there is one: then that one stays.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn keep_account(&self, credentials: &[u8], thumbprint: &str) -> Result<(), VaultError> {
        sqlx::query!(
            "insert into vault.acme_account (directory, credentials, thumbprint) values ($1, $2, $3)
             on conflict on constraint acme_account_pkey do nothing",
            self.directory,
            self.key.seal(&self.account_context(), credentials)?.to_bytes(),
            thumbprint
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Forgets the account with this thumbprint: the directory does not know it any more.
    ///
    /// # Errors
    /// [`VaultError::Database`].
    pub async fn forget_account(&self, thumbprint: &str) -> Result<(), VaultError> {
        sqlx::query!(
            "delete from vault.acme_account where directory = $1 and thumbprint = $2",
            self.directory,
            thumbprint
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// The certificate, if there is one after that version.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn certificate_after(&self, version: i64) -> Result<Option<AcmeCertificate>, VaultError> {
        let row = sqlx::query!(
            r#"select pem as "pem!", version from vault.acme_certificate
               where directory = $1 and names = $2 and version > $3 and pem is not null"#,
            self.directory,
            self.names,
            version
        )
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let pem = self.open(&self.certificate_context(), &row.pem)?;
        Ok(Some(AcmeCertificate { pem, version: row.version }))
    }

    /// Takes the turn to order the certificate after `version`, until `until`. Answers with the number of orders that
    /// failed so far, or with nothing: another node is at it, has done it, or it is too early after a failure.
    ///
    /// # Errors
    /// [`VaultError::Database`].
    pub async fn claim(
        &self,
        version: i64,
        now: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> Result<Option<i32>, VaultError> {
        let failures = sqlx::query_scalar!(
            "insert into vault.acme_certificate as c (directory, names, version, order_after, failures)
             values ($1, $2, 0, $4, 0)
             on conflict on constraint acme_certificate_pkey do update set order_after = $4
             where c.order_after <= $3 and c.version = $5
             returning failures",
            self.directory,
            self.names,
            now,
            until,
            version
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(failures)
    }

    /// Before when nobody orders, if anybody ever has.
    ///
    /// # Errors
    /// [`VaultError::Database`].
    pub async fn order_after(&self) -> Result<Option<DateTime<Utc>>, VaultError> {
        let order_after = sqlx::query_scalar!(
            "select order_after from vault.acme_certificate where directory = $1 and names = $2",
            self.directory,
            self.names
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(order_after)
    }

    /// Keeps a new certificate, and ends the turn.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn keep_certificate(&self, pem: &[u8], now: DateTime<Utc>) -> Result<(), VaultError> {
        sqlx::query!(
            "update vault.acme_certificate set pem = $3, version = version + 1, order_after = $4, failures = 0
             where directory = $1 and names = $2",
            self.directory,
            self.names,
            self.key.seal(&self.certificate_context(), pem)?.to_bytes(),
            now
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Ends the turn without a certificate; nobody orders before `again`.
    ///
    /// # Errors
    /// [`VaultError::Database`].
    pub async fn order_failed(&self, again: DateTime<Utc>) -> Result<(), VaultError> {
        sqlx::query!(
            "update vault.acme_certificate set order_after = $3, failures = failures + 1
             where directory = $1 and names = $2",
            self.directory,
            self.names,
            again
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    fn open(&self, context: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        Ok(self.key.open(context, &SealedValue::from_bytes(sealed).ok_or(UnsealError)?)?)
    }

    /// Neither list nor URL holds a space.
    fn account_context(&self) -> Vec<u8> {
        format!("fulexo/acme/account/1 {}", self.directory).into_bytes()
    }

    fn certificate_context(&self) -> Vec<u8> {
        format!("fulexo/acme/certificate/1 {} {}", self.directory, self.names).into_bytes()
    }
}
