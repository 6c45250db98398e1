//! When the certificate in use ends. Of its DER only the way to that date is read.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::{Arc, Current};
use crate::metrics::{Reading, Sizes, TlsServer};

/// Shows on the metrics page when the certificate of a server ends.
#[derive(Debug)]
pub(super) struct Expiry {
    pub(super) server: TlsServer,
    pub(super) current: Arc<Current>,
}

impl Sizes for Expiry {
    fn read(&self, reading: &mut Reading) {
        let pair = self.current.0.read().clone();
        let end = pair.cert.first().and_then(|certificate| not_after(certificate));
        reading.certificates.extend(end.map(|end| (self.server, end.as_second())));
    }
}

const SEQUENCE: u8 = 0x30;
/// `[0]`, the version, which the oldest certificates do not have.
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// Returns the end of the validity (RFC 5280, 4.1).
fn not_after(certificate: &[u8]) -> Option<Timestamp> {
    let (certificate, _) = element(certificate, SEQUENCE)?;
    let (mut rest, _) = element(certificate, SEQUENCE)?;
    if let Some((_, behind)) = element(rest, VERSION) {
        rest = behind;
    }
    // Serial number, algorithm, issuer.
    for _ in 0..3 {
        rest = next(rest)?.2;
    }
    let (validity, _) = element(rest, SEQUENCE)?;
    let (tag, text, _) = next(next(validity)?.2)?;
    let text = std::str::from_utf8(text).ok()?;
    let text = match tag {
        // Two digits of the year: from 1950 to 2049.
        UTC_TIME if text.get(..2)? < "50" => format!("20{text}"),
        UTC_TIME => format!("19{text}"),
        GENERALIZED_TIME => text.to_owned(),
        _ => return None,
    };
    let end = DateTime::strptime("%Y%m%d%H%M%SZ", text).ok()?;
    end.to_zoned(TimeZone::UTC).ok().map(|end| end.timestamp())
}

/// Returns the content of an element with this tag, and what is behind it.
fn element(input: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    next(input).filter(|(found, ..)| *found == tag).map(|(_, content, rest)| (content, rest))
}

/// Returns tag and content of the first element, and what is behind it.
fn next(input: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = input.split_first_chunk()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        let length = bytes.iter().try_fold(0usize, |sum, byte| sum.checked_mul(256)?.checked_add(usize::from(*byte)));
        (length?, rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ending(year: i32, month: u8, day: u8) -> Vec<u8> {
        let mut parameters = rcgen::CertificateParams::new(vec!["kollect".to_owned()]).unwrap();
        parameters.not_before = rcgen::date_time_ymd(1975, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(year, month, day);
        parameters.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn the_end_is_read_in_either_form_of_a_date() {
        for (year, want) in
            [(2027, "2027-02-03T00:00:00Z"), (2049, "2049-02-03T00:00:00Z"), (1999, "1999-02-03T00:00:00Z")]
        {
            assert_eq!(not_after(&ending(year, 2, 3)).unwrap().to_string(), want, "two digits of the year");
        }
        assert_eq!(not_after(&ending(2050, 2, 3)).unwrap().to_string(), "2050-02-03T00:00:00Z", "four digits");
    }

    #[test]
    fn what_is_no_certificate_has_no_end() {
        let whole = ending(2027, 2, 3);
        for length in 0..whole.len() {
            assert_eq!(not_after(&whole[..length]), None, "cut off after {length} bytes");
        }
        for wrong in [&[][..], &[0x30], &[0x30, 0xff], &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff], &[0x02, 0x01, 0x00]] {
            assert_eq!(not_after(wrong), None);
        }
    }
}
