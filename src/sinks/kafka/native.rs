//! What librdkafka can do and its safe wrapper cannot: the dial guard, and waiting for answers.
//!
//! librdkafka resolves names and opens connections by itself, and lets its user make the connection in its stead: `connect_cb`
//! is handed the address that a name was resolved to, and what it refuses is not dialled, whatever broker told the name. It is
//! set here, on a client that has no broker yet. This is the only unsafe code of the sink.
#![expect(unsafe_code, reason = "the wrapper of librdkafka lacks both; each block says why it is sound")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use rdkafka::bindings::{rd_kafka_brokers_add, rd_kafka_conf, rd_kafka_conf_set_connect_cb, rd_kafka_flush};
use rdkafka::client::Client;

use super::client::Context;

/// Puts the guard of its context between a client and the world, and only then tells it its brokers. The client must have
/// been made without any. Returns how many brokers it took.
pub(super) fn attach(client: &Client<Context>, brokers: &CStr) -> c_int {
    let native = client.native_ptr();
    // SAFETY: `native` is the instance that `client` owns, so it lives here. What `rd_kafka_conf` returns is the part of that
    // instance that holds its settings, which librdkafka allocated and writes itself; `const` is a courtesy to readers.
    // `connect_cb` is read in one place, `rd_kafka_transport_connect`, which runs in threads of brokers alone. There is none
    // yet, for the client was made without a list of brokers (an internal one never connects), and those that come are
    // started by `rd_kafka_brokers_add` after this write.
    unsafe { rd_kafka_conf_set_connect_cb(rd_kafka_conf(native).cast_mut(), Some(connect)) };
    // SAFETY: `native` as above; `brokers` ends with NUL and is copied.
    unsafe { rd_kafka_brokers_add(native, brokers.as_ptr()) }
}

/// Makes the text of a list of brokers one of C.
pub(super) fn list(brokers: &[String]) -> Option<CString> {
    CString::new(brokers.join(",")).ok()
}

/// Has a producer send what it has, and waits until brokers have taken all of it, at most so long. A message that failed is
/// waited for until its report is taken. The wrapper's own ways to wait look at the clock all the time, or sleep on.
pub(super) fn flush(client: &Client<Context>, limit: Duration) {
    let millis = c_int::try_from(limit.as_millis()).unwrap_or(c_int::MAX);
    // SAFETY: the instance is the one that `client` owns, so it lives here. Reports are events of a queue, so that nothing is
    // called back from here.
    unsafe { rd_kafka_flush(client.native_ptr(), millis) };
}

/// Connects a socket, which does not block, if the guard permits the address; returns 0 or what is wrong as an errno.
///
/// Called by threads of librdkafka: nothing in here may panic.
unsafe extern "C" fn connect(
    socket: c_int,
    address: *const libc::sockaddr,
    length: c_int,
    name: *const c_char,
    context: *mut c_void,
) -> c_int {
    // SAFETY: the wrapper registers as opaque value the context that its client holds in an `Arc` (`Client::new_context_arc`),
    // here always a `Context`. A client ends its threads, and with them all calls of this function, before it lets go of it.
    let context = unsafe { context.cast::<Context>().as_ref() };
    // SAFETY: librdkafka hands over `host:port` of the broker, ended with NUL, under the lock that keeps it as it is.
    let name = unsafe { name.as_ref().map(|name| CStr::from_ptr(name)) };
    // SAFETY: librdkafka hands over the address that it resolved, with its length.
    let ip = unsafe { ip_of(address, length) };
    let (Some(context), Some(name), Some(ip)) = (context, name, ip) else { return libc::EAFNOSUPPORT };
    if !context.permits(&name.to_string_lossy(), ip) {
        return libc::EACCES;
    }
    // SAFETY: the socket is one that librdkafka just made and nobody else knows; address and length as above.
    let connected = unsafe { libc::connect(socket, address, length.unsigned_abs()) };
    if connected == 0 {
        return 0;
    }
    match io::Error::last_os_error().raw_os_error() {
        Some(libc::EINPROGRESS) => 0,
        Some(errno) => errno,
        None => libc::EIO,
    }
}

/// Reads the IP address out of a socket address; nothing where it is of another family, or too short.
///
/// # Safety
/// `address` is null, or points to `length` bytes that hold a socket address.
unsafe fn ip_of(address: *const libc::sockaddr, length: c_int) -> Option<IpAddr> {
    let length = usize::try_from(length).ok()?;
    // SAFETY: the family stands in the first bytes of every socket address; the caller vouches for them.
    let family = unsafe { address.as_ref() }.filter(|_| length >= size_of::<libc::sa_family_t>())?.sa_family;
    match c_int::from(family) {
        libc::AF_INET if length >= size_of::<libc::sockaddr_in>() => {
            // SAFETY: the family and the length say what it is; it may stand anywhere.
            let v4 = unsafe { address.cast::<libc::sockaddr_in>().read_unaligned() };
            Some(IpAddr::from(v4.sin_addr.s_addr.to_ne_bytes()))
        }
        libc::AF_INET6 if length >= size_of::<libc::sockaddr_in6>() => {
            // SAFETY: as above.
            let v6 = unsafe { address.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some(IpAddr::from(v6.sin6_addr.s6_addr))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_out_of_what_the_library_hands_over() {
        // SAFETY: all zeros are a socket address of no family.
        let mut v4: libc::sockaddr_in = unsafe { std::mem::zeroed() };
        (v4.sin_family, v4.sin_addr.s_addr) = (2, u32::from_ne_bytes([10, 1, 2, 3]));
        let mut v6: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
        (v6.sin6_family, v6.sin6_addr.s6_addr[15]) = (10, 1);
        let size = |bytes: usize| c_int::try_from(bytes).unwrap();
        // SAFETY: the pointers lead to what is alive, and no length is longer than that.
        let (of_v4, of_v6, short, none) = unsafe {
            (
                ip_of((&raw const v4).cast(), size(size_of_val(&v4))),
                ip_of((&raw const v6).cast(), size(size_of_val(&v6))),
                ip_of((&raw const v6).cast(), size(size_of_val(&v4))),
                ip_of(std::ptr::null(), 16),
            )
        };
        assert_eq!(of_v4, Some("10.1.2.3".parse().unwrap()));
        assert_eq!(of_v6, Some("::1".parse().unwrap()));
        assert_eq!((short, none), (None, None));
    }
}
