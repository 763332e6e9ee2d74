//! The shared state by which nodes use one certificate: the account at an ACME directory (RFC 8555) and the
//! certificate, both sealed under a key of the service, and the claim to order the next one. It does not talk to the
//! directory.

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use zeroize::Zeroizing;

use super::crypto::{SealedValue, SymmetricKey, UnsealError};
use super::key_hierarchy::{Vault, VaultError};

/// The ACME state of one list of names at one directory.
#[derive(Clone)]
pub struct AcmeStore {
    pool: PgPool,
    key: SymmetricKey,
    directory: String,
    names: String,
}

/// An account at an ACME directory.
pub struct AcmeAccount {
    /// The credentials, in the ACME client's format.
    pub credentials: Zeroizing<Vec<u8>>,
    /// The thumbprint of the account's public key (RFC 7638).
    pub thumbprint: String,
}

/// An issued certificate.
pub struct AcmeCertificate {
    /// The chain and the private key, in PEM.
    pub pem: Zeroizing<Vec<u8>>,
    /// The number of this certificate among those for these names.
    pub version: i64,
}

impl Vault {
    /// Returns the ACME store of these names at this directory.
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
    /// Returns the account, if there is one.
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

    /// Returns the thumbprint of the account, for nodes that need nothing else of it.
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

    /// Stores an account, unless one is already stored.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn store_account(&self, credentials: &[u8], thumbprint: &str) -> Result<(), VaultError> {
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

    /// Deletes the account with this thumbprint, because the directory no longer knows it.
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

    /// Returns the certificate, if its version is later than `version`.
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

    /// Claims the order of the certificate after `version`, until `until`. Returns the number of failed orders so far,
    /// or `None` if another node holds the claim, the certificate is already there, or the delay after a failure has
    /// not passed.
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

    /// Returns the time before which no node orders, if an order was ever claimed.
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

    /// Stores a new certificate, and releases the claim.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn store_certificate(&self, pem: &[u8], now: DateTime<Utc>) -> Result<(), VaultError> {
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

    /// Records a failed order. No node orders before `again`.
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

    /// Unambiguous: neither the list nor the URL contains a space.
    fn account_context(&self) -> Vec<u8> {
        format!("fulexo/acme/account/1 {}", self.directory).into_bytes()
    }

    fn certificate_context(&self) -> Vec<u8> {
        format!("fulexo/acme/certificate/1 {} {}", self.directory, self.names).into_bytes()
    }
}
