//! Personal data of events, stored outside the log: sealed when an event is drafted, opened for callers who may read
//! it.

use std::collections::{BTreeMap, HashMap};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::NaiveDate;
use fulexo_domain::event::{Event, SealedDigest};
use fulexo_domain::sealed_field::SealedField;
use fulexo_domain::values::{Address, AddressDigest, IncidentText, Reason};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::address_key::AddressKey;
use super::crypto::{SealedValue, UnsealError, equal};
use super::key_hierarchy::{Vault, VaultError};
use super::subject::DataKey;
use super::subject::DataKeyOwner;

/// Personal data, by field. No `Debug`; wiped when dropped.
#[derive(Clone, Default)]
pub struct PersonalData(BTreeMap<SealedField, Zeroizing<String>>);

/// The maximum length of what a client says of itself, in bytes.
const MAX_VALUE_BYTES: usize = 512;
/// The maximum length of a reason, in bytes: none is cut.
const MAX_REASON_BYTES: usize = 4 * Reason::MAX_CHARS;
/// The maximum length of what is written about an incident, in bytes.
const MAX_INCIDENT_TEXT_BYTES: usize = 4 * IncidentText::MAX_CHARS;

/// A sealed row to append to the log.
#[derive(Clone)]
pub struct SealedRow {
    pub(crate) subject_id: Option<Uuid>,
    pub(crate) period: Option<NaiveDate>,
    pub(crate) sealed: SealedValue,
    pub(crate) addresses: AddressDigests,
}

/// The digests of the addresses among personal data. They are kept next to the sealed row, never in a leaf.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AddressDigests {
    /// The digest of the IP address.
    pub ip: Option<AddressDigest>,
    /// The digest of the e-mail address.
    pub email: Option<AddressDigest>,
}

impl PersonalData {
    /// Adds a field. Does nothing without a value. Truncates the value to 512 bytes; a [`Reason`] and what is written about
    /// an incident are never longer than their bounds.
    #[must_use]
    pub fn with(mut self, field: SealedField, value: Option<&str>) -> Self {
        if let Some(value) = value {
            let end = value.floor_char_boundary(match field {
                SealedField::Lessons | SealedField::Note | SealedField::Summary => MAX_INCIDENT_TEXT_BYTES,
                SealedField::Reason => MAX_REASON_BYTES,
                SealedField::Device
                | SealedField::DisplayName
                | SealedField::Email
                | SealedField::Ip
                | SealedField::UserAgent => MAX_VALUE_BYTES,
            });
            self.0.insert(field, Zeroizing::new(value.get(..end).unwrap_or_default().to_owned()));
        }
        self
    }

    /// Returns the value of a field.
    #[must_use]
    pub fn get(&self, field: SealedField) -> Option<&str> {
        self.0.get(&field).map(|value| value.as_str())
    }

    /// Returns the fields that have a value, in the order of their names.
    pub fn fields(&self) -> impl Iterator<Item = SealedField> {
        self.0.keys().copied()
    }

    /// Seals the fields that belong to this event. Returns the row to store, and the digest for the leaf. `None` if
    /// there are no such fields.
    pub(crate) fn seal_for(
        &self,
        event: &Event,
        event_id: Uuid,
        key: &DataKey,
    ) -> Result<Option<(SealedRow, SealedDigest)>, VaultError> {
        let chosen: BTreeMap<&str, &str> = event
            .sealed_fields()
            .iter()
            .filter_map(|field| self.get(*field).map(|value| (field.as_str(), value)))
            .collect();
        if chosen.is_empty() {
            return Ok(None);
        }
        let fields: Vec<SealedField> = self.0.keys().copied().filter(|f| chosen.contains_key(f.as_str())).collect();
        // A map of texts always has a JSON form.
        let plaintext = Zeroizing::new(serde_json::to_vec(&chosen).unwrap_or_default());
        let sealed = key.key.seal(&context(event_id, key.owner, &fields), &plaintext)?;
        let digest = SealedDigest {
            commitment: URL_SAFE_NO_PAD.encode(commitment(key, event_id)),
            digest: URL_SAFE_NO_PAD.encode(ciphertext_digest(&sealed)),
            fields,
        };
        let (subject_id, period) = match key.owner {
            DataKeyOwner::Subject(id) => (Some(id), None),
            DataKeyOwner::Period(month) => (None, Some(month)),
        };
        let addresses = self.addresses(&key.addresses, |field| digest.fields.contains(&field));
        Ok(Some((SealedRow { subject_id, period, sealed, addresses }, digest)))
    }

    fn addresses(&self, key: &AddressKey, is_chosen: impl Fn(SealedField) -> bool) -> AddressDigests {
        let digest = |field| {
            let value = self.get(field).filter(|_| is_chosen(field))?;
            Some(key.digest(&Address::of_field(field, value)?))
        };
        AddressDigests { ip: digest(SealedField::Ip), email: digest(SealedField::Email) }
    }
}

impl Vault {
    /// Computes the digest of an address, under which events are found that have it sealed alongside them.
    #[must_use]
    pub fn address_digest(&self, address: &Address) -> AddressDigest {
        self.address_key().digest(address)
    }

    /// Computes the digests of the addresses among opened data.
    #[must_use]
    pub fn address_digests(&self, opened: &PersonalData) -> AddressDigests {
        opened.addresses(self.address_key(), |_| true)
    }

    /// Opens the personal data of the events at these positions. An event whose data was forgotten is missing from the
    /// result.
    ///
    /// # Errors
    /// [`VaultError::Unseal`] if a row does not match the digest in its leaf: somebody altered it.
    pub async fn open_personal(&self, positions: &[i64]) -> Result<HashMap<i64, PersonalData>, VaultError> {
        let rows = sqlx::query!(
            r#"select s.position, s.subject_id, s.period, s.nonce, s.ciphertext, e.leaf,
                      sk.wrapped as "subject_wrapped?", sk.kek_id as "subject_kek_id?",
                      pk.wrapped as "period_wrapped?", pk.kek_id as "period_kek_id?"
               from log.sealed s
               join log.event e on e.position = s.position
               left join vault.subject_key sk on sk.subject_id = s.subject_id
               left join vault.period_key pk on pk.period = s.period
               where s.position = any($1) and e.position = any($1)"#,
            positions
        )
        .fetch_all(&self.pool)
        .await?;

        let mut opened: HashMap<i64, PersonalData> = HashMap::new();
        for row in rows {
            let key = match (row.subject_id, row.subject_wrapped, row.period, row.period_wrapped) {
                (Some(subject), Some(wrapped), _, _) => {
                    self.open_subject_key(subject, &row.subject_kek_id.unwrap_or_default(), &wrapped)?
                }
                (_, _, Some(month), Some(wrapped)) => {
                    self.open_period_key(month, &row.period_kek_id.unwrap_or_default(), &wrapped)?
                }
                _ => continue,
            };
            let nonce = row.nonce.as_slice().try_into().map_err(|_| UnsealError)?;
            let sealed = SealedValue { nonce, ciphertext: row.ciphertext };
            let leaf = fulexo_domain::leaf::read(row.position.unsigned_abs(), &row.leaf).map_err(|_| UnsealError)?;
            let facts = open_row(&key, leaf.id, &sealed, &leaf.sealed)?;
            opened.entry(row.position).or_default().0.extend(facts.0);
        }
        Ok(opened)
    }
}

fn open_row(
    key: &DataKey,
    event_id: Uuid,
    sealed: &SealedValue,
    said: &[SealedDigest],
) -> Result<PersonalData, UnsealError> {
    let digest = URL_SAFE_NO_PAD.encode(ciphertext_digest(sealed));
    let said = said.iter().find(|said| said.digest == digest).ok_or(UnsealError)?;
    let committed = URL_SAFE_NO_PAD.decode(&said.commitment).map_err(|_| UnsealError)?;
    if !equal(&committed, &commitment(key, event_id)) {
        return Err(UnsealError);
    }
    let plaintext = key.key.open(&context(event_id, key.owner, &said.fields), sealed)?;
    serde_json::from_slice(&plaintext)
        .map(|facts: BTreeMap<SealedField, String>| {
            PersonalData(facts.into_iter().map(|(f, v)| (f, Zeroizing::new(v))).collect())
        })
        .map_err(|_| UnsealError)
}

/// Returns the context that a seal is bound to.
fn context(event_id: Uuid, owner: DataKeyOwner, fields: &[SealedField]) -> Vec<u8> {
    let fields: Vec<&str> = fields.iter().map(|field| field.as_str()).collect();
    let owner = match owner {
        DataKeyOwner::Subject(id) => format!("subject/{id}"),
        DataKeyOwner::Period(month) => format!("period/{month}"),
    };
    format!("fulexo/personal/1/{event_id}/{owner}/{}", fields.join(",")).into_bytes()
}

fn commitment(key: &DataKey, event_id: Uuid) -> [u8; 32] {
    key.key.digest("fulexo/key-commitment/1", &[event_id.as_bytes()])
}

fn ciphertext_digest(sealed: &SealedValue) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &sealed.to_bytes()).as_ref());
    digest
}

#[cfg(test)]
mod tests {
    use fulexo_domain::account::AccountEvent;

    use super::super::crypto::SymmetricKey;
    use super::*;

    fn key(byte: u8) -> DataKey {
        let key = SymmetricKey::from_bytes([byte; 32]);
        let addresses = AddressKey::of(&key);
        DataKey { owner: DataKeyOwner::Subject(Uuid::from_u128(1)), key, addresses }
    }

    fn sealed() -> (SealedRow, SealedDigest) {
        let personal = PersonalData::default()
            .with(SealedField::Email, Some("ann@example.com"))
            .with(SealedField::Ip, Some("192.0.2.1"));
        personal.seal_for(&AccountEvent::Registered {}.into(), Uuid::from_u128(9), &key(1)).unwrap().unwrap()
    }

    #[test]
    fn only_the_facts_that_belong_to_the_event_are_sealed() {
        let (row, digest) = sealed();
        assert_eq!(digest.fields, [SealedField::Email]);
        let opened = open_row(&key(1), Uuid::from_u128(9), &row.sealed, &[digest]).unwrap();
        assert_eq!((opened.get(SealedField::Email), opened.get(SealedField::Ip)), (Some("ann@example.com"), None));
    }

    #[test]
    fn a_row_moved_to_another_event_or_opened_by_another_key_is_refused() {
        let (row, digest) = sealed();
        assert!(open_row(&key(1), Uuid::from_u128(8), &row.sealed, std::slice::from_ref(&digest)).is_err());
        assert!(open_row(&key(2), Uuid::from_u128(9), &row.sealed, std::slice::from_ref(&digest)).is_err());
        let mut other = row.sealed.clone();
        other.ciphertext[0] ^= 1;
        assert!(open_row(&key(1), Uuid::from_u128(9), &other, &[digest]).is_err());
    }
}
