//! Decimal numbers in one spelling.

/// Reads a decimal number without a sign and without leading zeros.
pub(crate) fn decimal(text: &str) -> Option<u64> {
    let is_canonical = text == "0" || !text.starts_with('0');
    let is_number = !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
    if is_canonical && is_number { text.parse().ok() } else { None }
}
