//! Cipher suites of TLS 1.2 and older that are no longer to be taken, by their fault (RFC 9325, section 4).

/// The fault of a cipher suite.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum SuiteFault {
    /// No encryption, no authentication, export keys, DES or RC4: read or changed by anybody on the way.
    Broken,
    /// Blocks of 64 bits: long connections leak (Sweet32).
    SmallBlocks,
    /// RSA key transport: who gets the key later reads what was recorded.
    NoForwardSecrecy,
}

/// Suites by number and name (the IANA registry), each with its fault.
pub const SUITES: [(u16, &str, SuiteFault); 29] = [
    (0x0001, "TLS_RSA_WITH_NULL_MD5", SuiteFault::Broken),
    (0x0002, "TLS_RSA_WITH_NULL_SHA", SuiteFault::Broken),
    (0x003b, "TLS_RSA_WITH_NULL_SHA256", SuiteFault::Broken),
    (0xc010, "TLS_ECDHE_RSA_WITH_NULL_SHA", SuiteFault::Broken),
    (0xc006, "TLS_ECDHE_ECDSA_WITH_NULL_SHA", SuiteFault::Broken),
    (0x0018, "TLS_DH_anon_WITH_RC4_128_MD5", SuiteFault::Broken),
    (0x0034, "TLS_DH_anon_WITH_AES_128_CBC_SHA", SuiteFault::Broken),
    (0x003a, "TLS_DH_anon_WITH_AES_256_CBC_SHA", SuiteFault::Broken),
    (0x00a6, "TLS_DH_anon_WITH_AES_128_GCM_SHA256", SuiteFault::Broken),
    (0xc018, "TLS_ECDH_anon_WITH_AES_128_CBC_SHA", SuiteFault::Broken),
    (0x0003, "TLS_RSA_EXPORT_WITH_RC4_40_MD5", SuiteFault::Broken),
    (0x0008, "TLS_RSA_EXPORT_WITH_DES40_CBC_SHA", SuiteFault::Broken),
    (0x0014, "TLS_DHE_RSA_EXPORT_WITH_DES40_CBC_SHA", SuiteFault::Broken),
    (0x0004, "TLS_RSA_WITH_RC4_128_MD5", SuiteFault::Broken),
    (0x0005, "TLS_RSA_WITH_RC4_128_SHA", SuiteFault::Broken),
    (0xc011, "TLS_ECDHE_RSA_WITH_RC4_128_SHA", SuiteFault::Broken),
    (0xc007, "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA", SuiteFault::Broken),
    (0x0009, "TLS_RSA_WITH_DES_CBC_SHA", SuiteFault::Broken),
    (0x0015, "TLS_DHE_RSA_WITH_DES_CBC_SHA", SuiteFault::Broken),
    (0x000a, "TLS_RSA_WITH_3DES_EDE_CBC_SHA", SuiteFault::SmallBlocks),
    (0x0016, "TLS_DHE_RSA_WITH_3DES_EDE_CBC_SHA", SuiteFault::SmallBlocks),
    (0xc012, "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA", SuiteFault::SmallBlocks),
    (0xc008, "TLS_ECDHE_ECDSA_WITH_3DES_EDE_CBC_SHA", SuiteFault::SmallBlocks),
    (0x002f, "TLS_RSA_WITH_AES_128_CBC_SHA", SuiteFault::NoForwardSecrecy),
    (0x0035, "TLS_RSA_WITH_AES_256_CBC_SHA", SuiteFault::NoForwardSecrecy),
    (0x003c, "TLS_RSA_WITH_AES_128_CBC_SHA256", SuiteFault::NoForwardSecrecy),
    (0x003d, "TLS_RSA_WITH_AES_256_CBC_SHA256", SuiteFault::NoForwardSecrecy),
    (0x009c, "TLS_RSA_WITH_AES_128_GCM_SHA256", SuiteFault::NoForwardSecrecy),
    (0x009d, "TLS_RSA_WITH_AES_256_GCM_SHA384", SuiteFault::NoForwardSecrecy),
];

/// Suites that servers of TLS 1.0 and 1.1 take, in the order in which they are offered.
pub const OLD: [u16; 10] = [0xc014, 0xc013, 0xc00a, 0xc009, 0x0039, 0x0033, 0x0035, 0x002f, 0x000a, 0x0005];
