//! TLS as `sslmode` asks for it: how much of the server's certificate is believed.

use super::dsn::SslMode;
use crate::sinks::TlsConfig;
use crate::sinks::tls::Verify;

/// As libpq: below `verify-ca` nothing is checked, unless an authority is given.
pub(super) fn verify(mode: SslMode, tls: &TlsConfig) -> Verify {
    match mode {
        _ if tls.insecure_skip_verify => Verify::Nothing,
        SslMode::VerifyFull => Verify::Full,
        SslMode::VerifyCa => Verify::Chain,
        SslMode::Disable | SslMode::Allow | SslMode::Prefer | SslMode::Require if tls.ca_pem.is_some() => Verify::Chain,
        SslMode::Disable | SslMode::Allow | SslMode::Prefer | SslMode::Require => Verify::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verification_is_that_of_libpq() {
        let plain = TlsConfig::default();
        let with_ca = TlsConfig { ca_pem: Some(Vec::new()), ..TlsConfig::default() };
        let insecure = TlsConfig { insecure_skip_verify: true, ..with_ca.clone() };
        for (mode, without, with) in [
            (SslMode::Allow, Verify::Nothing, Verify::Chain),
            (SslMode::Prefer, Verify::Nothing, Verify::Chain),
            (SslMode::Require, Verify::Nothing, Verify::Chain),
            (SslMode::VerifyCa, Verify::Chain, Verify::Chain),
            (SslMode::VerifyFull, Verify::Full, Verify::Full),
        ] {
            assert_eq!(verify(mode, &plain), without, "{mode:?}");
            assert_eq!(verify(mode, &with_ca), with, "{mode:?}");
            assert_eq!(verify(mode, &insecure), Verify::Nothing, "{mode:?}");
        }
    }
}
