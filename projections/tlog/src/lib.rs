//! A transparency log, as public tools verify it: the tree of RFC 6962, tiles and entry bundles (C2SP tlog-tiles), signed
//! notes, checkpoints, cosignatures, proofs, policies and submissions to witnesses. Bytes in, bytes out: it knows no clock, no
//! network, no storage and nothing else of this workspace. Readers accept one spelling of each thing, bound what they take,
//! and never panic.

pub mod bundle;
pub mod checkpoint;
mod decimal;
pub mod entry_proof;
pub mod extension;
pub mod growing_tiles;
pub mod hash;
pub mod key;
pub mod note;
pub mod policy;
pub mod proof;
pub mod submission;
pub mod tile;
pub mod tree;
