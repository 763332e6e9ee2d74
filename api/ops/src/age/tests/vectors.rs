//! Published vectors.

use sha2::{Digest, Sha256};

use super::{Identity, Recipient, decrypt};

/// From C2SP's age.md.
const X25519_IDENTITY: &str = "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX";
const X25519_RECIPIENT: &str = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj";
const HYBRID_IDENTITY: &str = "AGE-SECRET-KEY-PQ-1XX76JRALNLXDMEW0CRK45QMCCH4X06SE84UN3VPM33W6HWDX0H3SK3ZQFR";
/// The SHA-256 of the recipient there, which has 1,959 characters.
const HYBRID_RECIPIENT_SHA256: &str = "a091dd7e0ee9d62b75173dcc98441a0424baa941e66a8776e570a4ae60ff61ea";

/// From C2SP's CCTV, age/testdata: `x25519` and `hybrid`, their headers and their payloads in hexadecimal digits.
const X25519_FILE_IDENTITY: &str = "AGE-SECRET-KEY-1EGTZVFFV20835NWYV6270LXYVK2VKNX2MMDKWYKLMGR48UAWX40Q2P2LM0";
const X25519_HEADER: &str = "\
    age-encryption.org/v1\n\
    -> X25519 TEiF0ypqr+bpvcqXNyCVJpL7OuwPdVwPL7KQEbFDOCc\n\
    hjabGXwSLQ9c3S6Lw2i+S2Tu2fiwQHHslbBN6B41FLE\n\
    --- WyJp9F/9FOZh7gJdheq2WIJcwHgYc8NIVh3ddwhrcNg\n";
const X25519_PAYLOAD: &str = "eecf62c7ce91b433274e68d4f2f9134cb74c5bfef7beaa52c8f0bc0e992c1e8331fb66";
const HYBRID_FILE_IDENTITY: &str = "AGE-SECRET-KEY-PQ-1HZLGZUPT4ETPKDEV8HSGFDCYZ4E522W0A7PU2LHT8EH9W6YLNC3SW78XKG";
const HYBRID_HEADER: &str = "\
    age-encryption.org/v1\n\
    -> mlkem768x25519 NfLcgAbzvNgf0aRb4PANBvyDtIDDQKf84JhhFlnvT1NUAcbGNrArRZ/T+bc9l4xmK1DSl+PXk6nqqGBhaM1dUiT7X1\
    7TU1/b9haZZPzEalvZHFDMSevfiZshlnSgcpWh0qnpgTyboWTU+zbrH6YD2uhshbJoiuqh+PpXtDMstXx4CgxASrNVlfSl/caRTi24QjIXpC\
    NwEE4FwHrmAwUqSHLUzGOHfiW/chOCTtDX591x41o6eZ4/Dt92VhoYKFcpiaWbRhbenZXUJxPS1C1sK84CVwkDH7LJjbYCnkxt3meul8kKWi\
    hZsStZYd/6bozqczOX7zN5PbaYD1XpYwMwedzWmPmQzxBybD8ZodcR7hF7WUxSmFVH7ExiYH3ZNbDAVcgGwlkTFmUmaTCbjGZTv8M+ejmvSt\
    QHgCtPi4GGRdJFr3HzvRzm6bvrdF/rdSPRFtRVM7D9o7ZAAquD1PByE0Y5YCR4/vmTlIlRwFXk4be+TsAI+Gotujou6nrigwnfqoGiNSvi/Z\
    VvSKnDoZPIE5qwONCeeJB8CeRhqXEjvgtwc2zcWUBtjSJgNL+j887k2h0xlXpQqlmDDHsBOCP3/VoM+NZURqI+RoTudcwTl8TgmhGrQytnov\
    uWFDvE9HgPAs67dPRC64/3RES3hF2C6/R1pQAnC7S2iSijJnyFlaDJWfcZvvNoamphDv63kUNb7b9V8E+xwqF8GkuXJnBFDo0PuJz8qWH7sD\
    MEOhIInmanDiu6K/9jOCubYNdNcXrjQknlvk1kFdjZ2xYnC6QuqA5+qHMBpgrg301PX154X4KUcxA3PoFyYNexaBK3njks7PNxl7HyZIWjjD\
    lz50WrQnEqBjl8RVVuneL3vgVyU45GSVWQVOH4K6aepWP0+p7WUD52rhdVH5HPZWQL3v8TjEz80Aeb87+1s1wgM+5skNX4LpOyuhRxQ/ChXs\
    VZrVJ8SRsBlO4K+CJ271rHj8l8NEhRE2O/ZKHst8Be/6j5c9SUmRRqvI+6bcg0Bcq7Wi7d08vDQqjC2cOi112CGra5mazd/NCICC81oYkMmT\
    xtM9ficfIhvt9nHaZSQh27tzJ3xRWOegwzDOaNjrtJ7yvCXbV9iQ6boiCl6wdmIn7k9sI30wIuHcVU1Cr+ENWhqVyRiAKktgvxegDnqvRB2n\
    1aHKovp60Fs7YIDrclscRFikV45x0RNBdVtUkWD430vZgekkZdnwpeHxGV9TIe2FCNooQzUzx6v4ft0sZ5SYI490F2sYZu/sig4IB/KOzVfP\
    XBX9dkftLgZTWtfP7GI9NjEitLn/lYTh2jfSKTYZSM+BQt16m2yg/4X7xftA2P3fSyU1zWineocz4DKyilWmVhPRjy9LrTPtQWVVNGrVfUsN\
    YwWHJX6FwkF7JNbCqLEQueMjPhc9cnr66uF+Wt1IsuTj278MgyZqYlr7mkW91zyWJMSIXTKmqv5um9ypc3IJUmkvs67A91XA8vspARsUM4Jw\n\
    jYPfilNAMjF0zGRYMYJqR/cTTzbiGxQMhG+8zZaitic\n\
    --- 7wCgKc4t8kKmKJTNrYs7MoLKHk8Sqt8Y3oTZc08sQjM\n";
const HYBRID_PAYLOAD: &str = "dddf72d06fbcab57df3d0d312496ad218cd7fd6f8078bbf8812dd87947155eb7bd5e88";
/// The SHA-256 of the content of both.
const CONTENT_SHA256: &str = "013f54400c82da08037759ada907a8b864e97de81c088a182062c4b5622fd2ab";

fn sha256(data: &[u8]) -> String {
    Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(digits: &str) -> Vec<u8> {
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn an_x25519_identity_has_the_recipient_of_the_specification() {
    let identity = Identity::parse(X25519_IDENTITY).unwrap();
    assert_eq!(identity.recipient().to_string(), X25519_RECIPIENT);
    assert_eq!(identity.expose().as_str(), X25519_IDENTITY);
    assert_eq!(Recipient::parse(X25519_RECIPIENT).unwrap(), identity.recipient());
}

#[test]
fn a_hybrid_identity_has_the_recipient_of_the_specification() {
    let identity = Identity::parse(HYBRID_IDENTITY).unwrap();
    let recipient = identity.recipient().to_string();
    assert_eq!(sha256(recipient.as_bytes()), HYBRID_RECIPIENT_SHA256, "{recipient}");
    assert_eq!(identity.expose().as_str(), HYBRID_IDENTITY);
    assert_eq!(Recipient::parse(&recipient).unwrap(), identity.recipient());
}

#[test]
fn a_published_x25519_file_opens() {
    opens(X25519_FILE_IDENTITY, X25519_HEADER, X25519_PAYLOAD);
}

#[test]
fn a_published_hybrid_file_opens() {
    opens(HYBRID_FILE_IDENTITY, HYBRID_HEADER, HYBRID_PAYLOAD);
}

fn opens(identity: &str, header: &str, payload: &str) {
    let file = [header.as_bytes(), &bytes(payload)].concat();
    let (content, refused) = decrypt(Identity::parse(identity).unwrap(), &file);
    assert!(refused.is_none(), "{refused:?}");
    assert_eq!(sha256(&content), CONTENT_SHA256);
}
