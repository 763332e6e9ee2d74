//! The faults that `check-ssl` knows.

use crate::finding::{Rule, Severity};

const ONLY_GOOD_SUITES: &str =
    "Allow suites with ECDHE and AEAD only; with nginx: ssl_ciphers ECDHE+AESGCM:ECDHE+CHACHA20;";

pub const UNTRUSTED: Rule = Rule {
    id: "tls.untrusted",
    title: "no trusted authority has issued the certificate",
    severity: Severity::High,
    remedy: "Get a certificate from an authority that clients trust: with ACME_DOMAINS Fulexo does it by itself. For an \
             authority of your own give --ca FILE.",
    reference: "RFC 5280, section 6.1",
};
pub const INCOMPLETE_CHAIN: Rule = Rule {
    id: "tls.incomplete_chain",
    title: "the chain ends before an authority that is trusted",
    severity: Severity::High,
    remedy: "Send the certificates of all intermediate authorities after the server's own: TLS_CERT, and nginx's \
             ssl_certificate, take the whole chain in one file. For an authority of your own give --ca FILE.",
    reference: "RFC 8446, section 4.4.2; RFC 5280, section 6.1",
};
pub const BAD_PROOF: Rule = Rule {
    id: "tls.bad_proof",
    title: "the server does not prove that it has the key of its certificate",
    severity: Severity::High,
    remedy: "Compare the key file with the certificate, and look for somebody who answers in the server's place.",
    reference: "RFC 8446, section 4.4.3; RFC 5246, section 7.4.3",
};
pub const SELF_SIGNED: Rule = Rule {
    id: "tls.self_signed",
    title: "the certificate is issued by itself",
    severity: Severity::High,
    remedy: "Get a certificate from an authority that clients trust: with ACME_DOMAINS Fulexo does it by itself. If it is \
             meant to be trusted here, give --ca FILE.",
    reference: "RFC 5280, section 6.1",
};
pub const WRONG_NAME: Rule = Rule {
    id: "tls.wrong_name",
    title: "the certificate is not for this name",
    severity: Severity::High,
    remedy: "Get a certificate whose subjectAltName has the name that clients use, or check a name that it has.",
    reference: "RFC 9525, section 6",
};
pub const EXPIRED: Rule = Rule {
    id: "tls.expired",
    title: "the certificate has expired",
    severity: Severity::Critical,
    remedy: "Renew it now. Fulexo reads changed files of TLS_CERT and TLS_KEY within a minute, and renews by itself with \
             ACME_DOMAINS.",
    reference: "RFC 5280, section 4.1.2.5",
};
pub const NOT_YET_VALID: Rule = Rule {
    id: "tls.not_yet_valid",
    title: "the certificate is not valid yet",
    severity: Severity::High,
    remedy: "Compare the clocks of this machine and of the issuer; until its time comes, serve the previous certificate.",
    reference: "RFC 5280, section 4.1.2.5",
};
pub const ENDS_SOON: Rule = Rule {
    id: "tls.ends_soon",
    title: "the certificate ends soon",
    severity: Severity::Medium,
    remedy: "Renew it, and find out why that did not happen by itself.",
    reference: "RFC 5280, section 4.1.2.5",
};
pub const CHAIN_ORDER: Rule = Rule {
    id: "tls.chain_order",
    title: "a certificate of the chain does not follow from the one before",
    severity: Severity::Low,
    remedy: "Send the server's certificate first, then the one that issued it, and so on, and nothing else.",
    reference: "RFC 8446, section 4.4.2",
};
pub const UNREADABLE: Rule = Rule {
    id: "tls.unreadable",
    title: "a certificate of the chain cannot be read",
    severity: Severity::High,
    remedy: "Replace it: its DER is not that of RFC 5280.",
    reference: "RFC 5280, section 4.1",
};
pub const WEAK_KEY: Rule = Rule {
    id: "tls.weak_key",
    title: "the key of the certificate is weak",
    severity: Severity::High,
    remedy: "Make a new key, RSA with at least 2,048 bits or P-256, and get a new certificate for it.",
    reference: "RFC 9325, section 4.5; NIST SP 800-131A",
};
pub const WEAK_SIGNATURE: Rule = Rule {
    id: "tls.weak_signature",
    title: "a certificate is signed with MD5 or SHA-1",
    severity: Severity::High,
    remedy: "Get a certificate that is signed with SHA-256 or better.",
    reference: "RFC 9155; RFC 9325, section 4.5",
};
pub const OLD_VERSION: Rule = Rule {
    id: "tls.old_version",
    title: "the server takes a version of TLS that is no longer to be used",
    severity: Severity::High,
    remedy: "Allow TLS 1.2 and 1.3 only; with nginx: ssl_protocols TLSv1.2 TLSv1.3;",
    reference: "RFC 8996; RFC 7568; RFC 9325, section 3.1.1",
};
pub const NO_CURRENT_VERSION: Rule = Rule {
    id: "tls.no_current_version",
    title: "the server offers neither TLS 1.2 nor TLS 1.3",
    severity: Severity::High,
    remedy: "Allow them, and only them; with nginx: ssl_protocols TLSv1.2 TLSv1.3;",
    reference: "RFC 9325, section 3.1.1",
};
pub const NO_TLS_1_3: Rule = Rule {
    id: "tls.no_tls_1_3",
    title: "the server does not offer TLS 1.3",
    severity: Severity::Low,
    remedy: "Allow it; with nginx: ssl_protocols TLSv1.2 TLSv1.3;",
    reference: "RFC 9325, section 3.1.1",
};
pub const BROKEN_SUITE: Rule = Rule {
    id: "tls.broken_suite",
    title: "the server takes cipher suites that protect nothing",
    severity: Severity::High,
    remedy: ONLY_GOOD_SUITES,
    reference: "RFC 9325, section 4.1; RFC 7465",
};
pub const SMALL_BLOCKS: Rule = Rule {
    id: "tls.small_blocks",
    title: "the server takes cipher suites whose blocks are too small for long connections",
    severity: Severity::Medium,
    remedy: ONLY_GOOD_SUITES,
    reference: "RFC 9325, section 4.1; CVE-2016-2183",
};
pub const NO_FORWARD_SECRECY: Rule = Rule {
    id: "tls.no_forward_secrecy",
    title: "the server takes cipher suites without forward secrecy: its key opens what was recorded before",
    severity: Severity::Medium,
    remedy: ONLY_GOOD_SUITES,
    reference: "RFC 9325, sections 4.1 and 4.2.1",
};
pub const WEAK_INTEGRITY: Rule = Rule {
    id: "tls.weak_integrity",
    title: "the server takes cipher suites without AEAD, or with a short tag",
    severity: Severity::Low,
    remedy: ONLY_GOOD_SUITES,
    reference: "RFC 9325, sections 4.1 and 4.2",
};
pub const NO_STAPLE: Rule = Rule {
    id: "tls.no_staple",
    title: "the certificate demands a stapled OCSP response, and the server sends none",
    severity: Severity::High,
    remedy: "Staple a response, or get a certificate without the feature: browsers refuse it as it is.",
    reference: "RFC 7633, section 4.2.3",
};

/// All of them.
pub const RULES: [Rule; 20] = [
    UNTRUSTED,
    INCOMPLETE_CHAIN,
    BAD_PROOF,
    SELF_SIGNED,
    WRONG_NAME,
    EXPIRED,
    NOT_YET_VALID,
    ENDS_SOON,
    CHAIN_ORDER,
    UNREADABLE,
    WEAK_KEY,
    WEAK_SIGNATURE,
    OLD_VERSION,
    NO_CURRENT_VERSION,
    NO_TLS_1_3,
    BROKEN_SUITE,
    SMALL_BLOCKS,
    NO_FORWARD_SECRECY,
    WEAK_INTEGRITY,
    NO_STAPLE,
];
