//! Entry bundles (C2SP tlog-tiles, "Log entries"): leaves, each behind its length as 16 bits, big-endian.

/// The length of the longest entry, in bytes.
pub const MAX_ENTRY: usize = u16::MAX as usize;

/// A bundle is not a sequence of as many entries as it should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// It ends within an entry.
    #[error("the bundle ends within an entry")]
    Truncated,
    /// It has more or fewer entries than its width says.
    #[error("the bundle has the wrong number of entries")]
    WrongCount,
}

/// Appends an entry to a bundle; `None`, and nothing is appended, if it is longer than [`MAX_ENTRY`].
#[must_use]
pub fn push(bundle: &mut Vec<u8>, entry: &[u8]) -> Option<()> {
    let length = u16::try_from(entry.len()).ok()?;
    bundle.extend_from_slice(&length.to_be_bytes());
    bundle.extend_from_slice(entry);
    Some(())
}

/// Reads a bundle of `width` entries.
///
/// # Errors
/// [`BundleError`], if there is anything else in it.
pub fn entries(bundle: &[u8], width: u16) -> Result<Vec<&[u8]>, BundleError> {
    let (mut rest, mut entries) = (bundle, Vec::with_capacity(usize::from(width)));
    while let Some((length, behind)) = rest.split_first_chunk() {
        if entries.len() == usize::from(width) {
            return Err(BundleError::WrongCount);
        }
        let length = usize::from(u16::from_be_bytes(*length));
        let (entry, behind) = behind.split_at_checked(length).ok_or(BundleError::Truncated)?;
        entries.push(entry);
        rest = behind;
    }
    if !rest.is_empty() {
        return Err(BundleError::Truncated);
    }
    if entries.len() == usize::from(width) { Ok(entries) } else { Err(BundleError::WrongCount) }
}
