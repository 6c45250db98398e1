//! Git over HTTP(S): a smart sub-transport for libgit2 over reqwest and rustls.
//!
//! libgit2 is given the address [`URL`], whose scheme leads to the factory that [`register`] set up; the factory finds
//! the conversation of the current thread. Every connection goes to an address that the guard has checked: names through
//! [`Guarded`], numeric addresses before each request, and neither a proxy of the environment nor a redirection is
//! followed by the client on its own.
//!
//! The references are read with one GET, which may be redirected and challenged. Everything else is a POST to where that
//! GET ended. A small body is kept, so that it can be sent again after a challenge; a large one is streamed, and the
//! challenge is provoked before it with an empty request, as git does.

mod client;
mod exchange;
mod redirect;

use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};

use git2::transport::{Service, SmartSubtransport, SmartSubtransportStream, Transport};
use parking_lot::Mutex;
use reqwest::{Client, Url};
use tokio::runtime::Handle;

use self::exchange::{Exchange, Listing};
use super::super::config::{Challenge, GitConfig};
use super::super::error::GitError;
use super::Talk;
use crate::secret::Secret;
use crate::sinks::TlsConfig;
use crate::sinks::netguard::Guard;

/// The scheme under which libgit2 finds this transport.
const SCHEME: &str = "kollect-http";

/// What libgit2 takes for the address of the remote; the real one is in the conversation.
pub(super) const URL: &str = "kollect-http://remote";

thread_local! {
    /// The conversation that the factory hands out.
    static CURRENT: RefCell<Option<Arc<Conversation>>> = const { RefCell::new(None) };
}

/// One repository behind a web server, and how to log in to it.
pub(super) struct Origin {
    base: Url,
    login: Option<(String, Secret)>,
    challenge: Challenge,
    guard: Guard,
    tls: TlsConfig,
    handle: Handle,
    /// Made by the first session, on its blocking thread: the authorities of the system are files.
    client: Mutex<Option<Client>>,
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origin").field("base", &self.base.as_str()).finish_non_exhaustive()
    }
}

impl Origin {
    pub(super) fn new(
        base: Url,
        login: Option<(String, Secret)>,
        config: &GitConfig,
        guard: Guard,
        handle: Handle,
    ) -> Self {
        Self {
            base,
            login,
            challenge: config.challenge,
            guard,
            tls: config.tls.clone(),
            handle,
            client: Mutex::new(None),
        }
    }

    /// Returns the client, whose connections outlive a session.
    fn client(&self) -> Result<Client, GitError> {
        let mut slot = self.client.lock();
        if let Some(client) = &*slot {
            return Ok(client.clone());
        }
        let client = client::build(self.guard, &self.tls)?;
        *slot = Some(client.clone());
        Ok(client)
    }
}

/// What a session knows of its remote.
struct Conversation {
    origin: Arc<Origin>,
    talk: Arc<Talk>,
    client: Client,
    found: Mutex<Found>,
}

/// What the first GET found out.
struct Found {
    /// Where the repository really is.
    base: Url,
    /// The server asked for credentials and took them.
    signed: bool,
    /// The server offers atomic pushes.
    atomic: bool,
}

/// Makes a conversation the one of this thread, until it is dropped.
pub(super) struct Entered {
    before: Option<Arc<Conversation>>,
    // The conversation is found through the thread, so it must not leave it.
    thread: PhantomData<*const ()>,
}

impl Entered {
    pub(super) fn new(origin: &Arc<Origin>, talk: &Arc<Talk>) -> Result<Self, GitError> {
        let found = Found { base: origin.base.clone(), signed: false, atomic: false };
        let conversation = Conversation {
            origin: Arc::clone(origin),
            talk: Arc::clone(talk),
            client: origin.client()?,
            found: Mutex::new(found),
        };
        let before = CURRENT.replace(Some(Arc::new(conversation)));
        Ok(Self { before, thread: PhantomData })
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.before.take());
    }
}

/// Tells libgit2 of the transport, once in the life of the process.
pub(super) fn register() -> Result<(), git2::Error> {
    static DONE: OnceLock<Result<(), String>> = OnceLock::new();
    let done = DONE.get_or_init(|| {
        let factory = |remote: &git2::Remote<'_>| {
            let current = CURRENT.with_borrow(Clone::clone);
            let conversation = current.ok_or_else(|| git2::Error::from_str("no session on this thread"))?;
            Transport::smart(remote, true, Subtransport(conversation))
        };
        // SAFETY: libgit2 keeps transports in a list without a lock. It is written here alone and once, and read where a
        // remote connects; every remote of this process comes from a session, and `Wire::session` comes here first.
        #[expect(unsafe_code, reason = "the only way to give libgit2 a transport; see the safety comment")]
        let registered = unsafe { git2::transport::register(SCHEME, factory) };
        #[cfg(test)]
        let registered = registered.and_then(|()| crate::sinks::git::testing::register());
        registered.map_err(|error| error.message().to_owned())
    });
    match done {
        Ok(()) => Ok(()),
        Err(message) => Err(git2::Error::from_str(message)),
    }
}

/// What libgit2 calls.
struct Subtransport(Arc<Conversation>);

impl SmartSubtransport for Subtransport {
    fn action(&self, _url: &str, service: Service) -> Result<Box<dyn SmartSubtransportStream>, git2::Error> {
        let conversation = Arc::clone(&self.0);
        Ok(match service {
            Service::UploadPackLs => Box::new(Listing::new(conversation, Pack::Upload)),
            Service::ReceivePackLs => Box::new(Listing::new(conversation, Pack::Receive)),
            Service::UploadPack => Box::new(Exchange::new(conversation, Pack::Upload)),
            Service::ReceivePack => Box::new(Exchange::new(conversation, Pack::Receive)),
        })
    }

    fn close(&self) -> Result<(), git2::Error> {
        Ok(())
    }
}

/// The two services of a git server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pack {
    /// Fetches.
    Upload,
    /// Pushes.
    Receive,
}

impl Pack {
    const fn name(self) -> &'static str {
        match self {
            Self::Upload => "git-upload-pack",
            Self::Receive => "git-receive-pack",
        }
    }
}
