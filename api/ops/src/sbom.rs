//! The program's dependencies as a bill of materials: CycloneDX 1.6 (ECMA-424) as JSON.
//!
//! The same program gives the same bytes: the serial number follows from the content, and a time is in it only if the caller
//! gives one.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::scan::dependency_list::{DependencyKind, DependencyList, ListedPackage};

/// Returns the bill of materials of a program of this version.
#[must_use]
pub fn to_cyclonedx(list: &DependencyList, version: &str, made_at: Option<DateTime<Utc>>) -> Value {
    let mut metadata = json!({
        "tools": {"components": [{"type": "application", "name": "fulexo sbom", "version": version}]},
        "properties": [{"name": "fulexo:dependency-list", "value": list.origin.as_str()}],
    });
    if let (Some(made_at), Some(members)) = (made_at, metadata.as_object_mut()) {
        members.insert("timestamp".to_owned(), made_at.to_rfc3339_opts(SecondsFormat::Secs, true).into());
    }
    if let (Some(root), Some(members)) = (list.packages.iter().find(|it| it.root), metadata.as_object_mut()) {
        let mut program = component(root, "application");
        program.insert("name".to_owned(), "fulexo".into());
        members.insert("component".to_owned(), program.into());
    }
    let components: Vec<_> =
        list.packages.iter().filter(|it| !it.root).map(|it| Value::from(component(it, "library"))).collect();
    let dependencies: Vec<_> = list
        .packages
        .iter()
        .map(|package| {
            let depends_on: Vec<_> = list.dependencies_of(package).map(reference).collect();
            json!({"ref": reference(package), "dependsOn": depends_on})
        })
        .collect();
    let mut document = json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": metadata,
        "components": components,
        "dependencies": dependencies,
    });
    let serial = serial_number(&document);
    if let Some(members) = document.as_object_mut() {
        members.insert("serialNumber".to_owned(), serial.into());
    }
    document
}

fn component(package: &ListedPackage, kind: &str) -> Map<String, Value> {
    let mut component = Map::new();
    let mut put = |name: &str, value: Value| component.insert(name.to_owned(), value);
    put("type", kind.into());
    put("bom-ref", reference(package).into());
    put("name", package.name.clone().into());
    put("version", package.version.to_string().into());
    if !package.root {
        let scope = match package.kind {
            DependencyKind::Runtime => "required",
            DependencyKind::Build => "excluded",
        };
        put("scope", scope.into());
    }
    // Elsewhere this name and version would be another package.
    if package.source == "crates.io" {
        put("purl", reference(package).into());
    }
    if let Some(checksum) = &package.checksum {
        put("hashes", json!([{"alg": "SHA-256", "content": checksum}]));
    }
    if let Some(license) = &package.license {
        put("licenses", json!([{"expression": license}]));
    }
    component
}

/// Returns the package URL. Only the `+` of a version needs an escape: the other characters of names and versions do not.
fn reference(package: &ListedPackage) -> String {
    format!("pkg:cargo/{}@{}", package.name, package.version.to_string().replace('+', "%2B"))
}

/// Returns a UUID of version 8 (RFC 9562, section 5.8) that follows from the content.
fn serial_number(document: &Value) -> String {
    let digest = Sha256::digest(document.to_string());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    format!("urn:uuid:{}-{}-8{}-a{}-{}", part(0, 8), part(8, 12), part(12, 15), part(15, 18), part(18, 30))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_list_gives_the_same_bytes_and_another_time_another_serial_number() {
        let list = DependencyList::of_this_program().unwrap();
        let document = to_cyclonedx(&list, "1.0.0", None);
        assert_eq!(document.to_string(), to_cyclonedx(&list, "1.0.0", None).to_string());
        assert_eq!(document["metadata"].get("timestamp"), None);
        let timed = to_cyclonedx(&list, "1.0.0", Some(DateTime::UNIX_EPOCH));
        assert_eq!(timed["metadata"]["timestamp"], "1970-01-01T00:00:00Z");
        assert_ne!(document["serialNumber"], timed["serialNumber"]);
    }

    #[test]
    fn a_package_url_escapes_what_build_metadata_begins_with() {
        let package: ListedPackage =
            serde_json::from_str(r#"{"name":"toml","version":"1.2.2+spec-1.1.0","source":"crates.io"}"#).unwrap();
        assert_eq!(reference(&package), "pkg:cargo/toml@1.2.2%2Bspec-1.1.0");
    }
}
