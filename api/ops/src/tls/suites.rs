//! The judgement of cipher suites of SSL 3.0 to TLS 1.2 (RFC 9325, section 4), by what their names say.

use super::suite_table::SUITES;

/// The fault of a cipher suite, from the worst to the least.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum SuiteFault {
    /// No encryption, no authentication, export keys, DES, RC2, RC4 or MD5: read or changed by anybody on the way.
    Broken,
    /// Blocks of 64 bits: long connections leak (Sweet32).
    SmallBlocks,
    /// The key is transported, static or shared: who gets it later reads what was recorded.
    NoForwardSecrecy,
    /// CBC, which is only as good as the server's care with padding, or a tag of 64 bits.
    WeakIntegrity,
}

/// Parts of names by which a suite protects nothing.
const BROKEN: [&str; 7] = ["_NULL_", "_EXPORT", "_anon_", "_RC4_", "_RC2_", "_DES_", "_MD5"];
/// Key exchanges whose secret stays the same.
const STATIC: [&str; 8] = ["RSA", "PSK", "RSA_PSK", "DH_DSS", "DH_RSA", "ECDH_ECDSA", "ECDH_RSA", "KRB5"];

/// Returns every suite, the worst first: a server that takes whatever comes first shows the worst.
pub fn all() -> Vec<u16> {
    SUITES.iter().map(|(number, _)| *number).collect()
}

/// Returns the name of a suite.
pub fn name(number: u16) -> Option<&'static str> {
    SUITES.iter().find(|it| it.0 == number).map(|it| it.1)
}

/// Returns the worst fault of the suite with this name.
pub fn fault(name: &str) -> Option<SuiteFault> {
    let key_exchange = name.strip_prefix("TLS_").and_then(|rest| rest.split("_WITH_").next()).unwrap_or_default();
    // What ends a name is like what stands in its middle.
    let whole = format!("{name}_");
    let has = |part: &str| whole.contains(part);
    if BROKEN.into_iter().any(has) {
        Some(SuiteFault::Broken)
    } else if has("_3DES_") || has("_IDEA_") {
        Some(SuiteFault::SmallBlocks)
    } else if STATIC.contains(&key_exchange) {
        Some(SuiteFault::NoForwardSecrecy)
    } else if has("_CBC_") || has("_CCM_8_") {
        Some(SuiteFault::WeakIntegrity)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::process::Command;

    use super::*;

    #[test]
    fn suites_are_listed_once_and_the_worst_first() {
        let numbers: BTreeSet<u16> = all().into_iter().collect();
        let names: BTreeSet<&str> = SUITES.iter().map(|it| it.1).collect();
        assert_eq!((numbers.len(), names.len()), (SUITES.len(), SUITES.len()));
        let rank = |name: &str| fault(name).map_or(u8::MAX, |fault| fault as u8);
        assert!(SUITES.windows(2).all(|pair| rank(pair[0].1) <= rank(pair[1].1)));
    }

    #[test]
    fn a_name_is_judged_by_its_worst_part() {
        for (name, expected) in [
            ("TLS_ECDHE_RSA_WITH_NULL_SHA", Some(SuiteFault::Broken)),
            ("TLS_DH_anon_WITH_AES_256_GCM_SHA384", Some(SuiteFault::Broken)),
            ("TLS_RSA_EXPORT1024_WITH_RC4_56_SHA", Some(SuiteFault::Broken)),
            ("TLS_KRB5_WITH_3DES_EDE_CBC_MD5", Some(SuiteFault::Broken)),
            ("TLS_DHE_RSA_WITH_DES_CBC_SHA", Some(SuiteFault::Broken)),
            ("TLS_RSA_WITH_3DES_EDE_CBC_SHA", Some(SuiteFault::SmallBlocks)),
            ("TLS_RSA_WITH_AES_256_GCM_SHA384", Some(SuiteFault::NoForwardSecrecy)),
            ("TLS_ECDH_RSA_WITH_AES_128_GCM_SHA256", Some(SuiteFault::NoForwardSecrecy)),
            ("TLS_PSK_WITH_AES_128_CCM_8", Some(SuiteFault::NoForwardSecrecy)),
            ("TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256", Some(SuiteFault::WeakIntegrity)),
            ("TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8", Some(SuiteFault::WeakIntegrity)),
            ("TLS_ECDHE_ECDSA_WITH_AES_128_CCM", None),
            ("TLS_DHE_RSA_WITH_CHACHA20_POLY1305_SHA256", None),
        ] {
            assert_eq!(fault(name), expected, "{name}");
            assert!(SUITES.iter().any(|it| it.1 == name), "{name}");
        }
    }

    /// The columns of a line of `openssl ciphers -V -stdname`.
    struct SuiteColumn<'a>(Vec<&'a str>);

    impl SuiteColumn<'_> {
        fn is(&self, column: &str, values: &[&str]) -> bool {
            let text = self.0.iter().find_map(|it| it.strip_prefix(column)).unwrap_or_default();
            values.iter().any(|value| text.starts_with(value))
        }
    }

    #[test]
    fn every_suite_of_openssl_is_judged_as_its_columns_say() {
        let list =
            Command::new("openssl").args(["ciphers", "-V", "-stdname", "ALL:COMPLEMENTOFALL:@SECLEVEL=0"]).output();
        // Where there is no openssl, the table is judged by the other tests.
        let Ok(list) = list else { return };
        let text = String::from_utf8(list.stdout).unwrap();
        let mut count = 0;
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (number, named) = (words[0].replace("0x", "").replace(',', ""), words[2]);
            let number = u16::from_str_radix(&number, 16).unwrap();
            if number >> 8 == 0x13 || named.contains("GOST") {
                continue;
            }
            let column = SuiteColumn(words);
            let expected = if column.is("Enc=", &["None", "RC4", "RC2", "DES("]) || column.is("Au=", &["None"]) {
                Some(SuiteFault::Broken)
            } else if column.is("Enc=", &["3DES", "IDEA"]) {
                Some(SuiteFault::SmallBlocks)
            } else if column.is("Kx=", &["RSA", "PSK"]) {
                Some(SuiteFault::NoForwardSecrecy)
            } else if !column.is("Mac=", &["AEAD"]) || column.is("Enc=", &["AESCCM8"]) {
                Some(SuiteFault::WeakIntegrity)
            } else {
                None
            };
            assert_eq!((name(number), fault(named)), (Some(named), expected), "{line}");
            count += 1;
        }
        assert!(count > 100, "{text}");
    }
}
