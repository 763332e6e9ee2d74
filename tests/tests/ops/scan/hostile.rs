//! Databases that are damaged, of another kind, or made to do harm: none is clean, and each is named.

use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;
use fulexo_ops::clock;

use super::{Written, archive, database, exceptions, folder, header, packed, put, scan};

#[test]
fn one_advisory_that_cannot_be_read_is_named_and_leaves_nothing_clean() {
    let good = Written { patched: "\">= 0.0.0\"".to_owned(), ..Written::new() };
    let text = good.text();
    for (content, reason) in [
        (b"not an advisory".to_vec(), "```toml"),
        ("é".repeat(60).into_bytes(), "```toml"),
        (text.replace("date =", "date").into_bytes(), "cannot be read"),
        (text.replace(">= 0.0.0", "about 3").into_bytes(), "cannot be read"),
        (text.replace("\n```\n", "\n").into_bytes(), "cannot be read"),
        (text.replace("RUSTSEC-2026-9001", "RUSTSEC-2026-9003").into_bytes(), "says that it is RUSTSEC-2026-9003"),
        (text.replace("date = \"20", "date = \"20\\u0000").into_bytes(), "cannot be read"),
        (b"```toml\n\xff\n```\n# t\n\nd\n".to_vec(), "not UTF-8"),
        (vec![b'x'; (256 << 10) + 1], "larger than 256 KiB"),
        ([text.as_bytes(), &vec![b'['; 200 << 10]].concat().repeat(2), "larger than 256 KiB"),
        (text.replace("id =", &format!("x = {}\nid =", "[".repeat(100_000))).into_bytes(), "cannot be read"),
    ] {
        let folder = database(&good);
        let bad = Written { id: "RUSTSEC-2026-9002", ..Written::new() };
        put(&folder, &bad.path(), &content);
        let scanned = scan(Some(&folder), &[]);
        assert_eq!(scanned.code, 3, "{reason}: {} {:#}", scanned.errors, scanned.report);
        let said = scanned.reason("scan.database");
        assert!(said.contains(&bad.path()) && said.contains(reason), "{reason}: {said}");
        assert!(!scanned.reason("scan.dependencies").is_empty());
    }
}

#[test]
fn a_database_of_another_kind_or_without_advisories_is_refused() {
    let empty = folder();
    let (other, bare) = (folder(), folder());
    put(&other, "npm/lodash/GHSA-1.json", b"{}");
    put(&bare, "crates/README", b"");
    let unpacked = folder().join("advisories.zip");
    std::fs::write(&unpacked, b"PK\x03\x04").unwrap();
    let tarred = archive(&packed(&[("npm/x.json", b'0', b"{}")], clock::now().timestamp()));
    for path in [empty, other, bare, unpacked, tarred] {
        let scanned = scan(Some(&path), &[]);
        assert_eq!(scanned.code, 2, "{}: {}", path.display(), scanned.errors);
        assert!(scanned.errors.contains(path.to_str().unwrap()), "{}", scanned.errors);
    }
}

#[test]
fn an_archive_that_leads_out_links_bursts_or_is_cut_is_not_checked() {
    let now = clock::now().timestamp();
    let advisory = Written { patched: "\">= 0.0.0\"".to_owned(), ..Written::new() };
    let (path, text) = (advisory.path(), advisory.text());
    let with = |name: &str, kind: u8| packed(&[(&path, b'0', text.as_bytes()), (name, kind, b"")], now);
    let whole = with("LICENSE", b'0');
    assert_eq!(scan(Some(&archive(&whole)), &[]).code, 0, "the sound one");

    // 300 MiB of zeros in a file of 300 KiB, in one entry and beside a size that no disk has.
    let bomb = |size: usize| {
        let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
        bomb.write_all(&header("zeros", b'0', size, now)).unwrap();
        for _ in 0..300 {
            bomb.write_all(&vec![0; 1 << 20]).unwrap();
        }
        bomb.finish().unwrap()
    };
    let mut damaged = whole.clone();
    damaged[40] ^= 0xff;
    let long = "x".repeat(70_000);
    for (bytes, reason) in [
        (with("../../etc/passwd", b'0'), "leads out"),
        (with("/etc/passwd", b'0'), "leads out"),
        (with("crates/../../x/RUSTSEC-2026-9002.md", b'0'), "leads out"),
        (with("a\\b", b'0'), "leads out"),
        (with("../x", b'5'), "leads out"),
        (packed(&[("pax", b'x', b"22 path=/etc/passwd\n"), ("x", b'0', b"")], now), "leads out"),
        (packed(&[("long", b'L', b"../x\0"), ("x", b'0', b"")], now), "leads out"),
        (packed(&[("long", b'L', long.as_bytes()), ("x", b'0', b"")], now), "too long"),
        (with("crates/link", b'2'), "link or a special file"),
        (with("device", b'3'), "link or a special file"),
        (bomb(300 << 20), "256 MiB"),
        (bomb(0o77_777_777_777), "256 MiB"),
        (whole[..whole.len() / 2].to_vec(), "ends too early"),
        (damaged, ""),
        (packed(&[(&path, b'0', text.as_bytes()), (&path, b'0', text.as_bytes())], now), "twice"),
        (packed(&[(&path, b'0', &vec![b'x'; 300 << 10])], now), "larger than 256 KiB"),
        ([&whole[..2], b"garbage"].concat(), ""),
    ] {
        let scanned = scan(Some(&archive(&bytes)), &[]);
        assert_eq!(scanned.code, 3, "{reason}: {}", scanned.errors);
        assert!(scanned.reason("scan.database").contains(reason), "{reason}: {:#}", scanned.report);
    }
}

#[test]
fn a_link_in_a_directory_is_not_followed_and_a_pipe_is_not_waited_for() {
    let harmless = || database(&Written { patched: "\">= 0.0.0\"".to_owned(), ..Written::new() });
    let folder = harmless();
    for (place, target) in [("crates/root", "/"), ("crates/loop", ".."), ("crates/serde_json/loop", "../../crates")] {
        symlink(target, folder.join(place)).unwrap();
        let scanned = scan(Some(&folder), &[]);
        assert_eq!(scanned.code, 3, "{place}");
        assert!(scanned.reason("scan.database").contains("has a link"), "{:#}", scanned.report);
        std::fs::remove_file(folder.join(place)).unwrap();
    }
    let pipe = |path: &Path| assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    let folder = harmless();
    pipe(&folder.join("crates/serde_json/RUSTSEC-2026-9002.md"));
    assert_eq!(scan(Some(&folder), &[]).code, 0, "it is no advisory");
    pipe(&folder.join("snapshot-date"));
    let scanned = scan(Some(&folder), &[]);
    assert_eq!(scanned.code, 3);
    assert!(scanned.reason("scan.database").contains("snapshot-date is not a file"), "{:#}", scanned.report);
    assert_eq!(scan(Some(&folder.join("snapshot-date")), &[]).code, 2);
}

#[test]
fn a_file_of_exceptions_that_is_missing_endless_or_of_another_kind_is_refused() {
    let folder = database(&Written::new());
    let other = super::folder().join("x");
    std::fs::write(&other, "[advisory]\nignore = []\n").unwrap();
    let missing = other.with_extension("missing");
    let unknown = exceptions(r#"{ id = "RUSTSEC-2026-9001", reason = "r", until = "2027-01-01" }"#);
    for file in ["/dev/zero", other.to_str().unwrap(), missing.to_str().unwrap(), &unknown] {
        let scanned = scan(Some(&folder), &["--exceptions", file]);
        assert_eq!(scanned.code, 2, "{file}: {}", scanned.errors);
        assert!(scanned.errors.contains(file), "{}", scanned.errors);
    }
}
