//! The packages that this program was built of: the list that cargo-auditable put into the program, or else the one that was
//! embedded when it was built.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;

use flate2::read::ZlibDecoder;
use rustsec::Version;
use serde::Deserialize;

/// The list of the build script, compressed.
const EMBEDDED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/dependencies"));
/// The largest program that is searched for a list, in bytes.
const PROGRAM_BOUND: u64 = 2 << 30;
/// The largest list, unpacked, in bytes.
const LIST_BOUND: u64 = 8 << 20;

/// The dependencies of this program.
#[derive(Debug)]
pub struct DependencyList {
    /// The packages, by name and version.
    pub packages: Vec<ListedPackage>,
    /// The origin of the list.
    pub origin: ListOrigin,
}

/// The origin of a dependency list.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ListOrigin {
    /// The section `.dep-v0` of the program, which cargo-auditable wrote.
    Auditable,
    /// The list that the build script made of the lock file.
    LockFile,
}

impl ListOrigin {
    /// Returns a description.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auditable => "the list that cargo-auditable put into the program",
            Self::LockFile => "the lock file of the build",
        }
    }
}

/// A package of the list, in the form of cargo-auditable.
#[derive(Clone, Debug, Deserialize)]
pub struct ListedPackage {
    /// The name.
    pub name: String,
    /// The version.
    pub version: Version,
    /// `crates.io`, `local`, or another source.
    pub source: String,
    /// The part that it has in the program.
    #[serde(default)]
    pub kind: DependencyKind,
    /// The packages that it depends on, as places in the list.
    #[serde(default)]
    pub dependencies: Vec<usize>,
    /// `true` for the program itself.
    #[serde(default)]
    pub root: bool,
    /// The SHA-256 of the package's file, in hexadecimal digits.
    #[serde(default)]
    pub checksum: Option<String>,
    /// The licence, an SPDX expression.
    #[serde(default)]
    pub license: Option<String>,
}

/// The part that a package has in the program.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum DependencyKind {
    /// Its code is in the program.
    #[default]
    Runtime,
    /// It only helped to build the program.
    Build,
}

#[derive(Deserialize)]
struct Packages {
    packages: Vec<ListedPackage>,
}

impl DependencyList {
    /// Returns the list of the running program.
    ///
    /// # Errors
    /// A text for the operator if the program has a list that cannot be read.
    pub fn of_this_program() -> Result<Self, String> {
        let embedded = unpack(EMBEDDED).map_err(|error| format!("the embedded dependency list: {error}"))?;
        let program = own_program().map_err(|error| format!("cannot read the running program: {error}"))?;
        match auditable_extract::raw_auditable_data(&program) {
            Ok(section) => Self::of_section(section, &embedded),
            // No section, or a form of program that cannot have one.
            Err(_) => Ok(Self { packages: embedded, origin: ListOrigin::LockFile }),
        }
    }

    /// Reads the list of cargo-auditable, and adds what only the embedded one knows.
    fn of_section(section: &[u8], embedded: &[ListedPackage]) -> Result<Self, String> {
        let mut packages =
            unpack(section).map_err(|error| format!("the dependency list in the program (.dep-v0): {error}"))?;
        let known: BTreeMap<_, _> = embedded.iter().map(|it| ((&it.name, &it.version, &it.source), it)).collect();
        for package in &mut packages {
            if let Some(known) = known.get(&(&package.name, &package.version, &package.source)) {
                package.checksum.clone_from(&known.checksum);
                package.license.clone_from(&known.license);
            }
        }
        Ok(Self { packages, origin: ListOrigin::Auditable })
    }

    /// Returns the packages that a package depends on.
    pub fn dependencies_of<'a>(&'a self, package: &'a ListedPackage) -> impl Iterator<Item = &'a ListedPackage> {
        package.dependencies.iter().filter_map(|index| self.packages.get(*index))
    }
}

fn own_program() -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // The running file, even if another one has replaced it.
    File::open("/proc/self/exe")?.take(PROGRAM_BOUND).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn unpack(bytes: &[u8]) -> Result<Vec<ListedPackage>, String> {
    let mut json = Vec::new();
    ZlibDecoder::new(bytes)
        .take(LIST_BOUND + 1)
        .read_to_end(&mut json)
        .map_err(|error| format!("cannot be unpacked: {error}"))?;
    if json.len() as u64 > LIST_BOUND {
        return Err(format!("is larger than {} MiB", LIST_BOUND >> 20));
    }
    let list: Packages = serde_json::from_slice(&json).map_err(|error| format!("cannot be read: {error}"))?;
    if list.packages.is_empty() {
        return Err("is empty".to_owned());
    }
    Ok(list.packages)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::ZlibEncoder;

    use super::*;

    fn packed(text: &str) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn the_embedded_list_has_the_program_its_crates_and_their_checksums() {
        let list = unpack(EMBEDDED).unwrap();
        assert!(list.len() > 200, "{}", list.len());
        assert_eq!(list.iter().filter(|it| it.root).map(|it| &it.name).collect::<Vec<_>>(), ["fulexo-api"]);
        assert!(list.iter().all(|it| it.source == "local" || it.checksum.as_ref().is_some_and(|sum| sum.len() == 64)));
        let kind = |name: &str| list.iter().find(|it| it.name == name).unwrap().kind;
        assert_eq!((kind("serde_json"), kind("serde_derive")), (DependencyKind::Runtime, DependencyKind::Build));
    }

    #[test]
    fn a_section_of_cargo_auditable_is_read_and_gains_checksums_and_licences() {
        let embedded = unpack(EMBEDDED).unwrap();
        let known = embedded.iter().find(|it| it.name == "serde_json").unwrap();
        let text = format!(
            r#"{{"packages":[{{"name":"serde_json","version":"{}","source":"crates.io"}},{{"name":"x","version":"1.0.0","source":"git"}}]}}"#,
            known.version
        );
        let list = DependencyList::of_section(&packed(&text), &embedded).unwrap();
        assert_eq!(list.origin, ListOrigin::Auditable);
        assert_eq!(list.packages[0].checksum, known.checksum);
        assert_eq!((list.packages[0].kind, &list.packages[1].checksum), (DependencyKind::Runtime, &None));
    }

    #[test]
    fn a_section_that_is_damaged_empty_or_a_bomb_is_refused() {
        for (section, reason) in [
            (b"garbage".to_vec(), "unpacked"),
            (packed("{}"), "cannot be read"),
            (packed(r#"{"packages":[]}"#), "is empty"),
            (packed(&" ".repeat((LIST_BOUND + 2) as usize)), "larger than 8 MiB"),
        ] {
            let refused = DependencyList::of_section(&section, &[]).unwrap_err();
            assert!(refused.contains(reason), "{refused}");
        }
    }
}
