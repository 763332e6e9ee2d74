//! The tree of RFC 6962, section 2.1, in the plain recursion of the text.

use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// A hash of the tree.
pub type Hash = [u8; 32];

pub fn decimal(text: &str) -> Option<u64> {
    // Parsing alone would accept a sign and leading zeroes.
    text.parse().ok().filter(|number: &u64| number.to_string() == text)
}

pub fn hash(text: &str) -> Option<Hash> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn sha256(parts: &[&[u8]]) -> Hash {
    let mut context = Context::new(&SHA256);
    parts.iter().for_each(|part| context.update(part));
    context.finish().as_ref().try_into().unwrap()
}

pub fn node(left: &Hash, right: &Hash) -> Hash {
    sha256(&[&[1], left, right])
}

/// Returns the largest power of two that is smaller than this, which is 2 or more.
pub fn split(size: u64) -> u64 {
    1 << (size - 1).ilog2()
}

/// `MTH` of RFC 6962, section 2.1, over the hashes of leaves.
pub fn head(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => sha256(&[]),
        [leaf] => *leaf,
        _ => {
            let (left, right) = halves(leaves);
            node(&head(left), &head(right))
        }
    }
}

pub fn halves(leaves: &[Hash]) -> (&[Hash], &[Hash]) {
    leaves.split_at(usize::try_from(split(leaves.len() as u64)).unwrap())
}

/// `SUBPROOF` of RFC 6962, section 2.1.2. `whole` is its `b`: the first `old` leaves are the old tree itself.
pub fn continued(old: usize, leaves: &[Hash], whole: bool) -> Vec<Hash> {
    if old == leaves.len() {
        return if whole { Vec::new() } else { vec![head(leaves)] };
    }
    let (left, right) = halves(leaves);
    let (mut proof, last) = match old.checked_sub(left.len()) {
        Some(old @ 1..) => (continued(old, right, false), head(left)),
        Some(0) | None => (continued(old, left, whole), head(right)),
    };
    proof.push(last);
    proof
}

/// `true` if the proof, and no hash more, leads from the old tree to the new one, each a size and a root.
pub fn continues((old, old_root): (u64, Hash), (new, new_root): (u64, Hash), proof: &[Hash]) -> bool {
    let mut proof = proof.iter();
    let leads = old == 0 || roots((old, new), Some(old_root), &mut proof) == Some((old_root, new_root));
    leads && proof.next().is_none()
}

/// Retraces `SUBPROOF`, and returns the roots of the first `old` leaves and of all `new` ones. `whole` is the root of
/// the old tree where it is a whole subtree, which the proof leaves out.
pub fn roots<'a>(
    (old, new): (u64, u64),
    whole: Option<Hash>,
    proof: &mut impl Iterator<Item = &'a Hash>,
) -> Option<(Hash, Hash)> {
    if old == new {
        let root = whole.or_else(|| proof.next().copied())?;
        return Some((root, root));
    }
    let left_size = split(new);
    if old <= left_size {
        let (was, left) = roots((old, left_size), whole, proof)?;
        Some((was, node(&left, proof.next()?)))
    } else {
        let (was, right) = roots((old - left_size, new - left_size), None, proof)?;
        let left = proof.next()?;
        Some((node(left, &was), node(left, &right)))
    }
}
