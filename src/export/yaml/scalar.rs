//! How a text stands in YAML: bare where it reads as nothing else, else quoted.
//!
//! - **Double quotes** where the bare text would read as something that is no text (`"7"`, `"yes"`, `"~"`, `""`,
//!   `"2026-01-02"`, `"12:30:45"`), and with escapes where it holds control characters, tabs, characters outside the
//!   basic plane, or those that some readers take for line breaks.
//! - **Single quotes** where punctuation or blanks would be misread (`'a: b'`, `' lead'`, `'#b'`).
//! - **A literal block** (`|`, `|-`, `|+`) for several lines, unless a line ends with a blank.
//!
//! YAML 1.1 and 1.2 disagree on what is a number, a date or a truth value; a text that either of them reads so is quoted.

/// Appends a key of a map.
pub(super) fn write_key(text: &[u8], out: &mut Vec<u8>) {
    match style(text) {
        Style::Plain => out.extend_from_slice(text),
        Style::Single => write_single(text, out),
        Style::Double | Style::Literal => write_double(text, out),
    }
}

/// Whether the line break after a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    Open,
    Ended,
}

/// Appends a value. The lines of a literal block start at the column.
pub(super) fn write_value(text: &[u8], column: usize, out: &mut Vec<u8>) -> Line {
    match style(text) {
        Style::Plain => out.extend_from_slice(text),
        Style::Single => write_single(text, out),
        Style::Double => write_double(text, out),
        Style::Literal => {
            write_literal(text, column, out);
            return Line::Ended;
        }
    }
    Line::Open
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Plain,
    Single,
    Double,
    Literal,
}

fn style(text: &[u8]) -> Style {
    let Some((&first, &last)) = text.first().zip(text.last()) else { return Style::Double };
    let mut indicators = match first {
        b'#' | b',' | b'[' | b']' | b'{' | b'}' | b'&' | b'*' | b'!' | b'|' | b'>' | b'\'' | b'"' | b'%' | b'@'
        | b'`' => true,
        b'?' | b':' | b'-' => matches!(text.get(1), None | Some(b' ' | b'\n')),
        _ => false,
    };
    indicators |= text.starts_with(b"---") || text.starts_with(b"...");
    let (mut lines, mut blank_before_break) = (false, false);
    for (at, &byte) in text.iter().enumerate() {
        match CLASS[usize::from(byte)] {
            Class::Special => return Style::Double,
            Class::Wide if is_special(text.get(at..).unwrap_or_default()) => return Style::Double,
            Class::Safe | Class::Wide => {}
            Class::Break => {
                lines = true;
                blank_before_break |= at > 0 && text.get(at - 1) == Some(&b' ');
            }
            Class::Colon => indicators |= matches!(text.get(at + 1), None | Some(b' ' | b'\n')),
            Class::Hash => indicators |= at > 0 && matches!(text.get(at - 1), Some(b' ' | b'\n')),
        }
    }
    if lines {
        return if blank_before_break || last == b' ' { Style::Double } else { Style::Literal };
    }
    if is_other_scalar(first, text) {
        Style::Double
    } else if indicators || first == b' ' || last == b' ' {
        Style::Single
    } else {
        Style::Plain
    }
}

#[derive(Clone, Copy)]
enum Class {
    Safe,
    Break,
    Colon,
    Hash,
    /// Must be escaped.
    Special,
    /// Starts a character of which some must be escaped.
    Wide,
}

const CLASS: [Class; 256] = {
    let mut table = [Class::Safe; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte {
            0x0a => Class::Break,
            0x3a => Class::Colon,
            0x23 => Class::Hash,
            0..0x20 | 0x7f | 0xf0..=0xff => Class::Special,
            0xc2 | 0xe2 | 0xef => Class::Wide,
            _ => Class::Safe,
        };
        byte += 1;
    }
    table
};

/// Tells whether the character that starts here is a control character, a line break to some, or a byte order mark.
fn is_special(text: &[u8]) -> bool {
    matches!(
        text,
        [0xc2, 0x80..0xa0, ..] | [0xe2, 0x80, 0xa8 | 0xa9, ..] | [0xef, 0xbb, 0xbf, ..] | [0xef, 0xbf, 0xbe | 0xbf, ..]
    )
}

/// Tells whether a text would be read as a truth value, nothing, a number, a date, or a key that merges.
fn is_other_scalar(first: u8, text: &[u8]) -> bool {
    match first {
        b'y' | b'Y' | b'n' | b'N' | b't' | b'T' | b'f' | b'F' | b'o' | b'O' | b'~' => WORDS.contains(&text),
        b'<' => text == b"<<",
        b'=' => text == b"=",
        b'0'..=b'9' => is_number(text) || is_base_60(text) || is_time(text),
        b'.' => is_number(text) || SPECIAL_NUMBERS.contains(&text),
        b'+' | b'-' => {
            let unsigned = text.get(1..).unwrap_or_default();
            is_number(text) || is_base_60(text) || SPECIAL_NUMBERS.contains(&unsigned)
        }
        _ => false,
    }
}

const WORDS: [&[u8]; 26] = [
    b"y", b"Y", b"yes", b"Yes", b"YES", b"n", b"N", b"no", b"No", b"NO", b"true", b"True", b"TRUE", b"false", b"False",
    b"FALSE", b"on", b"On", b"ON", b"off", b"Off", b"OFF", b"null", b"Null", b"NULL", b"~",
];

const SPECIAL_NUMBERS: [&[u8]; 6] = [b".nan", b".NaN", b".NAN", b".inf", b".Inf", b".INF"];

/// Tells whether a text is a whole number of base 2, 8, 10 or 16, or a decimal fraction, with underscores at will.
fn is_number(text: &[u8]) -> bool {
    let mut rest = text.iter().copied().filter(|&byte| byte != b'_').peekable();
    rest.next_if(|byte| matches!(byte, b'+' | b'-'));
    let mut digits = 0;
    if rest.next_if_eq(&b'0').is_some() {
        digits = 1;
        let is_digit: Option<fn(u8) -> bool> = match rest.peek() {
            Some(b'x' | b'X') => Some(|byte| byte.is_ascii_hexdigit()),
            Some(b'o' | b'O') => Some(|byte| matches!(byte, b'0'..=b'7')),
            Some(b'b' | b'B') => Some(|byte| matches!(byte, b'0' | b'1')),
            _ => None,
        };
        if let Some(is_digit) = is_digit {
            let mut digits = rest.skip(1).peekable();
            return digits.peek().is_some() && digits.all(is_digit);
        }
    }
    let mut skip_digits = || {
        let mut count = 0;
        while rest.next_if(u8::is_ascii_digit).is_some() {
            count += 1;
        }
        (
            count,
            rest.next_if(|byte| matches!(byte, b'.' | b'e' | b'E')),
            rest.next_if(|byte| matches!(byte, b'+' | b'-')),
        )
    };
    let (count, mut mark, mut sign) = skip_digits();
    digits += count;
    if mark == Some(b'.') && sign.is_none() {
        let (count, next, after) = skip_digits();
        digits += count;
        (mark, sign) = (next, after);
    }
    match mark {
        None if sign.is_none() => digits > 0 && rest.next().is_none(),
        Some(b'e' | b'E') => {
            let (exponent, mark, sign) = skip_digits();
            digits > 0 && exponent > 0 && mark.is_none() && sign.is_none() && rest.next().is_none()
        }
        _ => false,
    }
}

/// Tells whether a text is a number of base 60, which is how YAML 1.1 reads a time of the day.
fn is_base_60(text: &[u8]) -> bool {
    let unsigned = text.strip_prefix(b"+").or_else(|| text.strip_prefix(b"-")).unwrap_or(text);
    let (whole, fraction) = match unsigned.iter().position(|&byte| byte == b'.') {
        Some(at) => unsigned.split_at(at),
        None => (unsigned, &b""[..]),
    };
    let mut groups = whole.split(|&byte| byte == b':');
    let leads = groups.next().is_some_and(|group| {
        group.first().is_some_and(u8::is_ascii_digit) && group.iter().all(|byte| byte.is_ascii_digit() || *byte == b'_')
    });
    let mut groups = groups.peekable();
    leads
        && groups.peek().is_some()
        && groups.all(|group| matches!(group, [b'0'..=b'9'] | [b'0'..=b'5', b'0'..=b'9']))
        && fraction.iter().skip(1).all(|byte| byte.is_ascii_digit() || *byte == b'_')
}

/// Tells whether a text is a date, or a date and a time.
fn is_time(text: &[u8]) -> bool {
    let mut rest = text;
    let Some(year) = take_number(&mut rest, 4..=4) else { return false };
    let month = take(&mut rest, b"-").then(|| take_number(&mut rest, 1..=2)).flatten();
    let day = take(&mut rest, b"-").then(|| take_number(&mut rest, 1..=2)).flatten();
    let (Some(month @ 1..=12), Some(day @ 1..)) = (month, day) else { return false };
    if day > days(year, month) {
        return false;
    }
    match rest {
        [] => true,
        [b'T' | b't', after @ ..] => {
            let mut rest = after;
            is_clock(&mut rest) && is_zone(rest)
        }
        [b' ', after @ ..] => {
            let mut rest = after;
            is_clock(&mut rest) && rest.is_empty()
        }
        _ => false,
    }
}

fn is_clock(rest: &mut &[u8]) -> bool {
    let part = |rest: &mut &[u8], limit: u16| take_number(rest, 1..=2).is_some_and(|number| number < limit);
    if !(part(rest, 24) && take(rest, b":") && part(rest, 60) && take(rest, b":") && part(rest, 60)) {
        return false;
    }
    !take(rest, b".") || {
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        *rest = rest.get(digits..).unwrap_or_default();
        digits > 0
    }
}

fn is_zone(zone: &[u8]) -> bool {
    matches!(zone, b"Z" | [b'+' | b'-', b'0'..=b'9', b'0'..=b'9', b':', b'0'..=b'9', b'0'..=b'9'])
}

fn take(rest: &mut &[u8], mark: &[u8]) -> bool {
    rest.strip_prefix(mark).map(|after| *rest = after).is_some()
}

fn take_number(rest: &mut &[u8], lengths: std::ops::RangeInclusive<usize>) -> Option<u16> {
    let length = rest.iter().take(*lengths.end()).take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, after) = rest.split_at_checked(length).filter(|_| lengths.contains(&length))?;
    *rest = after;
    Some(digits.iter().fold(0, |number, digit| number * 10 + u16::from(digit - b'0')))
}

fn days(year: u16, month: u16) -> u16 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn write_single(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'\'');
    for &byte in text {
        if byte == b'\'' {
            out.push(b'\'');
        }
        out.push(byte);
    }
    out.push(b'\'');
}

fn write_double(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for character in String::from_utf8_lossy(text).chars() {
        let short = match character {
            '\0' => '0',
            '\x07' => 'a',
            '\x08' => 'b',
            '\t' => 't',
            '\n' => 'n',
            '\x0b' => 'v',
            '\x0c' => 'f',
            '\r' => 'r',
            '\x1b' => 'e',
            '"' => '"',
            '\\' => '\\',
            '\u{85}' => 'N',
            '\u{2028}' => 'L',
            '\u{2029}' => 'P',
            '\0'..'\x20' | '\x7f'..'\u{a0}' | '\u{feff}' | '\u{fffe}'.. => {
                write_code(u32::from(character), out);
                continue;
            }
            _ => {
                out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
        };
        out.extend_from_slice(&[b'\\', short as u8]);
    }
    out.push(b'"');
}

/// Appends a character by its number: `\x1F`, `\uFEFF`, `\U0001F600`.
fn write_code(code: u32, out: &mut Vec<u8>) {
    let text = match code {
        ..=0xff => format!("\\x{code:02X}"),
        0x100..=0xffff => format!("\\u{code:04X}"),
        _ => format!("\\U{code:08X}"),
    };
    out.extend_from_slice(text.as_bytes());
}

fn write_literal(text: &[u8], column: usize, out: &mut Vec<u8>) {
    out.push(b'|');
    if matches!(text.first(), Some(b' ' | b'\n')) {
        out.push(b'2'); // the indent cannot be told from the first line
    }
    match text {
        [b'\n'] | [.., b'\n', b'\n'] => out.push(b'+'),
        [.., b'\n'] => {}
        _ => out.push(b'-'),
    }
    out.push(b'\n');
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    for line in body.split(|&byte| byte == b'\n') {
        if !line.is_empty() {
            out.resize(out.len() + column, b' ');
            out.extend_from_slice(line);
        }
        out.push(b'\n');
    }
}
