//! The addresses by which an audit trail is searched, in one spelling each, and the digests under which they are found.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::email::EmailAddress;
use super::invalid::InvalidValue;
use crate::sealed_field::SealedField;

/// An address of the network or of a mailbox. Personal data: no `Debug`, no `Display`.
pub enum Address {
    /// An IP address. An IPv4-mapped one is the IPv4 address (RFC 4291, section 2.5.5.2).
    Ip(IpAddr),
    /// An e-mail address.
    Email(EmailAddress),
}

/// The kind of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AddressKind {
    /// An IP address.
    Ip,
    /// An e-mail address.
    Email,
}

impl AddressKind {
    /// The name in leaves.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Email => "email",
        }
    }
}

/// The keyed digest of an address. Only the service can compute it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AddressDigest(pub [u8; 16]);

impl Address {
    /// Reads an IP address, or an e-mail address.
    ///
    /// # Errors
    /// The text is neither.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        match (ip(text), text.contains('@')) {
            (Some(ip), _) => Ok(ip),
            (None, true) => EmailAddress::parse(text).map(Self::Email),
            (None, false) => Err(InvalidValue("must be an IP address or an e-mail address")),
        }
    }

    /// The address that a sealed field holds; `None` for fields that hold no whole address.
    #[must_use]
    pub fn of_field(field: SealedField, value: &str) -> Option<Self> {
        match field {
            SealedField::Ip => ip(value),
            SealedField::Email => Some(Self::Email(EmailAddress::from_stored(value))),
            SealedField::Device
            | SealedField::DisplayName
            | SealedField::Lessons
            | SealedField::Note
            | SealedField::Reason
            | SealedField::Summary
            | SealedField::UserAgent => None,
        }
    }

    /// The kind of the address.
    #[must_use]
    pub const fn kind(&self) -> AddressKind {
        match self {
            Self::Ip(_) => AddressKind::Ip,
            Self::Email(_) => AddressKind::Email,
        }
    }

    /// The one spelling of the address: the canonical text of RFC 5952, or the key by which a mailbox is unique.
    #[must_use]
    pub fn normalised(&self) -> String {
        match self {
            Self::Ip(ip) => ip.to_string(),
            Self::Email(email) => email.normalised(),
        }
    }
}

fn ip(text: &str) -> Option<Address> {
    text.parse().ok().map(|ip: IpAddr| Address::Ip(ip.to_canonical()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_an_address_is_normalised_to_one() {
        for (spellings, one) in [
            (&["192.0.2.1", "::ffff:192.0.2.1", "::FFFF:C000:201"][..], "192.0.2.1"),
            (&["2001:db8::1", "2001:0DB8:0:0:0:0:0:1"], "2001:db8::1"),
            (&["Ann@Example.COM", "ann@example.com"], "ann@example.com"),
        ] {
            for spelling in spellings {
                assert_eq!(Address::parse(spelling).ok().unwrap().normalised(), one);
            }
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["", "ann", "192.0.2", "192.0.2.0/24", "192.0.2.1:80", "[2001:db8::1]", " 192.0.2.1", "ann@", "@"] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_field_that_holds_a_network_or_no_address_has_none() {
        for (field, value) in [(SealedField::Ip, "2001:db8::/64"), (SealedField::Reason, "192.0.2.1")] {
            assert!(Address::of_field(field, value).is_none());
        }
    }
}
