//! Keys as text: Bech32 (BIP 173), without the limit on its length.
//!
//! One key has one text: another case, a padding that is not zero and surrounding space are refused.

use bech32::primitives::decode::CheckedHrpstring;
use bech32::{Checksum, Fe1024, Hrp};
use zeroize::Zeroizing;

/// The checksum of Bech32 over texts of any length. Hybrid recipients have 1,959 characters; the crate stops at 1,023,
/// up to which the code detects any four errors.
enum UnlimitedBech32 {}

impl Checksum for UnlimitedBech32 {
    type MidstateRepr = u32;
    type CorrectionField = Fe1024;
    const ROOT_GENERATOR: Self::CorrectionField = bech32::Bech32::ROOT_GENERATOR;
    const ROOT_EXPONENTS: std::ops::RangeInclusive<usize> = bech32::Bech32::ROOT_EXPONENTS;
    const CODE_LENGTH: usize = usize::MAX;
    const CHECKSUM_LENGTH: usize = bech32::Bech32::CHECKSUM_LENGTH;
    const GENERATOR_SH: [u32; 5] = bech32::Bech32::GENERATOR_SH;
    const TARGET_RESIDUE: u32 = bech32::Bech32::TARGET_RESIDUE;
}

/// A kind of key, by the first characters of its text.
#[derive(Clone, Copy)]
pub enum AgeKeyKind {
    /// A public key, in lower case.
    Public(&'static str),
    /// A secret key, in upper case.
    Secret(&'static str),
}

/// Decodes a key of this kind and length; `None` if the text is not the one of such a key.
pub fn decode<const BYTES: usize>(kind: AgeKeyKind, text: &str) -> Option<Zeroizing<[u8; BYTES]>> {
    let checked = CheckedHrpstring::new::<UnlimitedBech32>(text).ok()?;
    let mut key = Zeroizing::new([0; BYTES]);
    let mut bytes = checked.byte_iter();
    for byte in key.iter_mut() {
        *byte = bytes.next()?;
    }
    let whole = bytes.next().is_none() && same(encode(kind, key.as_slice())?.as_bytes(), text.as_bytes());
    whole.then_some(key)
}

/// Encodes a key; `None` if it cannot be encoded, which no key of ours is.
pub fn encode(kind: AgeKeyKind, key: &[u8]) -> Option<Zeroizing<String>> {
    let (AgeKeyKind::Public(name) | AgeKeyKind::Secret(name)) = kind;
    let hrp = Hrp::parse(name).ok()?;
    // Large enough from the start: a text that moves would leave a copy.
    let mut text = Zeroizing::new(String::with_capacity(name.len() + 1 + key.len() * 8 / 5 + 8));
    match kind {
        AgeKeyKind::Public(_) => bech32::encode_lower_to_fmt::<UnlimitedBech32, _>(&mut *text, hrp, key),
        AgeKeyKind::Secret(_) => bech32::encode_upper_to_fmt::<UnlimitedBech32, _>(&mut *text, hrp, key),
    }
    .ok()?;
    Some(text)
}

fn same(one: &[u8], other: &[u8]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(one, other).is_ok()
}
