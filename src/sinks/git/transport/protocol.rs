//! The few things of the git protocol that libgit2 leaves to a transport, as pure functions over bytes.
//!
//! libgit2 never asks for an atomic push. So the capabilities that the server offers are read as they pass, and ` atomic`
//! is put into the first command where it is offered (gitprotocol-pack(5), "Reference Update Request").

use crate::secret::Secret;

/// The capability of taking all references of a push or none.
const ATOMIC: &[u8] = b"atomic";

/// The longest packet of the protocol, its four digits of length included.
const MAX_PACKET: usize = 65_520;

/// So much of what a server says is kept.
const MAX_WORDS: usize = 2048;

/// So much of it is shown.
const MAX_SHOWN: usize = 400;

/// Reads the capabilities of a server in the advertisement of its references, as it passes.
#[derive(Debug, Default)]
pub(super) struct Capabilities {
    held: Vec<u8>,
    read: bool,
}

impl Capabilities {
    /// Takes the next bytes of the advertisement; tells once whether the server offers atomic pushes.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Option<bool> {
        if self.read {
            return None;
        }
        self.held.extend_from_slice(bytes);
        let offered = offers_atomic(self.first_reference()?);
        self.read = true;
        self.held = Vec::new();
        Some(offered)
    }

    /// Returns the first packet that announces a reference, once it is there in full; nothing in it where the bytes are
    /// no packets.
    fn first_reference(&self) -> Option<&[u8]> {
        let mut rest = self.held.as_slice();
        loop {
            let (digits, _) = rest.split_at_checked(4)?;
            match packet_length(digits) {
                Some(0) => rest = rest.get(4..)?,
                Some(length @ 4..=MAX_PACKET) => {
                    let (packet, after) = rest.split_at_checked(length)?;
                    let payload = packet.get(4..)?;
                    if !payload.starts_with(b"# ") {
                        return Some(payload);
                    }
                    rest = after;
                }
                _ => return Some(&[]),
            }
        }
    }
}

fn offers_atomic(payload: &[u8]) -> bool {
    let capabilities = payload.iter().position(|byte| *byte == 0).and_then(|at| payload.get(at + 1..));
    let words = capabilities.unwrap_or_default().split(u8::is_ascii_whitespace);
    words.into_iter().any(|word| word == ATOMIC)
}

/// Puts ` atomic` into the first command of a push; leaves alone what is no such command.
pub(super) fn ask_atomic(body: &mut Vec<u8>) {
    let Some(length) = body.get(..4).and_then(packet_length) else { return };
    let Some(command) = body.get(4..length) else { return };
    // A command without capabilities is not the first of libgit2; one that asks already needs nothing.
    if !command.contains(&0) || offers_atomic(command) || length + ATOMIC.len() + 1 > MAX_PACKET {
        return;
    }
    let at = if command.ends_with(b"\n") { length - 1 } else { length };
    body.splice(at..at, [b" ", ATOMIC].concat());
    let longer = format!("{:04x}", length + ATOMIC.len() + 1);
    body.splice(..4, longer.into_bytes());
}

/// Reads the four hexadecimal digits in front of a packet.
fn packet_length(digits: &[u8]) -> Option<usize> {
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    usize::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// What a server says beside the data: `remote:` lines, without those that show progress.
#[derive(Debug, Default)]
pub(super) struct Words {
    text: Vec<u8>,
    line: Vec<u8>,
}

impl Words {
    /// Takes the next piece; it need not end with a line.
    pub(super) fn hear(&mut self, piece: &[u8]) {
        for byte in piece {
            match byte {
                // A line that is written over was progress.
                b'\r' => self.line.clear(),
                b'\n' => self.end_line(),
                _ if self.line.len() < MAX_WORDS => self.line.push(*byte),
                _ => {}
            }
        }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.text
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let line = line.trim_ascii();
        let progress = line.ends_with(b", done.") || line.is_empty();
        if !progress && self.text.len() + line.len() < MAX_WORDS {
            if !self.text.is_empty() {
                self.text.push(b' ');
            }
            self.text.extend_from_slice(line);
        }
    }
}

/// Makes words of a server fit to be shown: one line, not too long, without the secret.
pub(super) fn scrub(words: &[u8], secret: Option<&Secret>) -> String {
    let text = String::from_utf8_lossy(words);
    let text = match secret.map(Secret::expose).filter(|secret| !secret.is_empty()) {
        Some(secret) => text.replace(secret, "***"),
        None => text.into_owned(),
    };
    let printable = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let line = printable.collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADVERTISEMENT: &[u8] = b"001f# service=git-receive-pack\n0000\
        00550000000000000000000000000000000000000000 capabilities^{}\0report-status atomic \n0000";

    fn packet(payload: &[u8]) -> Vec<u8> {
        [format!("{:04x}", payload.len() + 4).as_bytes(), payload].concat()
    }

    #[test]
    fn offered_capability_is_found_however_the_bytes_arrive() {
        for size in [1, 3, 7, ADVERTISEMENT.len()] {
            let mut capabilities = Capabilities::default();
            let answers: Vec<bool> = ADVERTISEMENT.chunks(size).filter_map(|bytes| capabilities.feed(bytes)).collect();
            assert_eq!(answers, [true], "{size}");
        }
    }

    #[test]
    fn capability_that_is_not_offered_is_not_found() {
        for payload in [
            &b"1111111111111111111111111111111111111111 refs/heads/main\0report-status side-band-64k\n"[..],
            b"1111111111111111111111111111111111111111 refs/heads/atomic\0nonatomic atomic2\n",
            b"1111111111111111111111111111111111111111 refs/heads/atomic\n",
        ] {
            assert_eq!(Capabilities::default().feed(&packet(payload)), Some(false));
        }
        assert_eq!(Capabilities::default().feed(b"<html>no packets"), Some(false));
        assert_eq!(Capabilities::default().feed(b"0001000"), Some(false));
    }

    #[test]
    fn first_command_asks_for_an_atomic_push() {
        let ids = format!("{} {}", "0".repeat(40), "1".repeat(40));
        let first = packet(format!("{ids} refs/heads/main\0 report-status side-band-64k\n").as_bytes());
        let second = packet(format!("{ids} refs/kollect/a/b/c\n").as_bytes());
        let rest = [second, b"0000PACK\x00\x01\xff".to_vec()].concat();
        let mut body = [first, rest.clone()].concat();
        ask_atomic(&mut body);
        let wanted = packet(format!("{ids} refs/heads/main\0 report-status side-band-64k atomic\n").as_bytes());
        assert_eq!(body, [wanted.clone(), rest.clone()].concat());
        ask_atomic(&mut body);
        assert_eq!(body, [wanted, rest].concat(), "asking twice changes nothing");
    }

    #[test]
    fn what_is_no_first_command_is_left_alone() {
        for body in [&b""[..], b"0000", b"00", b"zzzz", b"00ffshort", b"0009abcd\n", b"+0009\0"] {
            let mut changed = body.to_vec();
            ask_atomic(&mut changed);
            assert_eq!(changed, body);
        }
    }

    #[test]
    fn progress_of_the_server_is_not_among_its_words() {
        let mut words = Words::default();
        for piece in [
            &b"Resolving deltas:  50% (1/2)\rResolving deltas: 100% (2/2)\rResolving deltas: 100% (2/2), done.\n"[..],
            b"GitLab: You are not allowed to push",
            b" code to protected branches.\n\n",
            b"error: hook declined\n",
        ] {
            words.hear(piece);
        }
        let text = "GitLab: You are not allowed to push code to protected branches. error: hook declined";
        assert_eq!(words.as_bytes(), text.as_bytes());
    }

    #[test]
    fn words_are_bounded_and_hold_no_secret() {
        let mut words = Words::default();
        words.hear("x".repeat(10 * MAX_WORDS).as_bytes());
        words.hear(b"\n");
        words.hear("y ".repeat(MAX_WORDS / 4).as_bytes());
        words.hear(b"\n");
        assert!(words.as_bytes().len() <= MAX_WORDS);
        assert!(scrub(words.as_bytes(), None).chars().count() <= MAX_SHOWN + 1);
        let secret = Secret::new("hunter2");
        assert_eq!(scrub(b" bad\r\n\x1b[31mtoken\thunter2\xff ", Some(&secret)), "bad [31mtoken ***\u{fffd}");
    }
}
