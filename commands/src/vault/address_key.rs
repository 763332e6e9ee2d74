//! The key under which addresses in sealed data are digested, so that who may open that data finds the events of an address. The
//! digests lie next to the sealed rows, and are deleted with them: none is in a leaf.

use fulexo_domain::values::{Address, AddressDigest};

use super::crypto::SymmetricKey;

/// The key of the digests of addresses, the same on every node.
#[derive(Clone)]
pub struct AddressKey(SymmetricKey);

impl AddressKey {
    /// Derives the key from the service key.
    pub(super) fn of(service: &SymmetricKey) -> Self {
        Self(service.derive("fulexo/address-digest/1"))
    }

    /// Computes the digest of an address, HMAC-SHA-256 (RFC 2104) truncated to 128 bits: the same for all its spellings.
    pub(crate) fn digest(&self, address: &Address) -> AddressDigest {
        let digest = self.0.digest(address.kind().as_str(), &[address.normalised().as_bytes()]);
        let mut truncated = [0; 16];
        truncated.copy_from_slice(digest.split_at(16).0);
        AddressDigest(truncated)
    }
}
