//! Requests and answers: the list of references, and the exchange of packs.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, stream};
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};
use reqwest::{Body, Method, RequestBuilder, Response, Url};
use tokio::sync::mpsc;

use super::super::super::config::Challenge;
use super::super::super::error::{Answer, GitError, RedirectError};
use super::super::SILENCE;
use super::super::protocol::{self, Capabilities};
use super::redirect::{MAX_REDIRECTS, base_of, follow, refs_of, same_place, service_of, shown};
use super::{Conversation, Pack, client};

/// A body up to this size is sent with its length, and again after a challenge; the `http.postBuffer` of git.
const SMALL_BODY: usize = 1 << 20;

/// Size of the pieces of a larger body.
const PIECE: usize = 64 << 10;

/// So many pieces wait for the socket; then libgit2 waits.
const QUEUE: usize = 4;

/// So many pieces of an answer are kept that begins before the question is at its end: many times the report of a push.
const EARLY: usize = 64;

/// What is sent to provoke a challenge: a request for nothing.
const FLUSH: &[u8] = b"0000";

/// So much of the body of a refusal is read.
const REFUSAL_BODY: usize = 2048;

/// So long is waited for it: the status says enough.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(5);

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Read the references.
    List,
    /// Exchange packs.
    Exchange(Pack),
}

impl Step {
    /// Returns what is done, for people.
    const fn doing(self) -> &'static str {
        match self {
            Self::List => "list the references of",
            Self::Exchange(Pack::Upload) => "fetch from",
            Self::Exchange(Pack::Receive) => "push to",
        }
    }

    /// Returns how long an answer may take. A push is answered when the hooks of the server have run, so that the
    /// deadline of the session alone ends it; a dead peer is found by the keepalive of its socket.
    const fn patience(self) -> Duration {
        match self {
            Self::List | Self::Exchange(Pack::Upload) => SILENCE,
            Self::Exchange(Pack::Receive) => Duration::MAX,
        }
    }
}

impl Conversation {
    /// Asks for the references; follows redirections and answers a challenge.
    fn list(&self, pack: Pack) -> Result<Response, GitError> {
        let mut url = refs_of(&self.origin.base, pack.name());
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(Step::List, &url, |url| {
                self.client.get(url.clone()).header(ACCEPT, "*/*").header(CACHE_CONTROL, "no-cache")
            })?;
            let location = response.headers().get(LOCATION).filter(|_| response.status().is_redirection());
            let Some(location) = location else {
                let response =
                    self.check(Step::List, response, &format!("application/x-{}-advertisement", pack.name()))?;
                if let Some(base) = base_of(&url) {
                    self.found.lock().base = base;
                }
                return Ok(response);
            };
            let location = location.to_str().map_err(|_| self.redirect(Step::List, RedirectError::Unreadable))?;
            url = follow(&url, location).map_err(|reason| self.redirect(Step::List, reason))?;
        }
        Err(self.redirect(Step::List, RedirectError::TooMany(MAX_REDIRECTS)))
    }

    /// Posts a body that is there in full.
    fn post(&self, pack: Pack, body: &Bytes) -> Result<Response, GitError> {
        let response = self.send(Step::Exchange(pack), &self.service(pack), |url| {
            request(self.client.request(Method::POST, url.clone()), pack).body(body.clone())
        })?;
        self.check(Step::Exchange(pack), response, &result_of(pack))
    }

    /// Sends a request, and once more with credentials when it is challenged.
    fn send(&self, step: Step, url: &Url, request: impl Fn(&Url) -> RequestBuilder) -> Result<Response, GitError> {
        self.origin.guard.check_literal(url.host_str().unwrap_or_default()).map_err(client::refused)?;
        let ours = same_place(&self.origin.base, url);
        let mut signed = ours && (self.found.lock().signed || self.origin.challenge == Challenge::Skipped);
        loop {
            let login = self.origin.login.as_ref().filter(|_| signed);
            let sent = match login {
                Some((user, password)) => request(url).basic_auth(user, Some(password.expose())),
                None => request(url),
            };
            let response = self.wait(step, step.patience(), sent.send())?;
            let response = response.map_err(|error| client::sort(self.talk.doing(step.doing()), error))?;
            if response.status() != StatusCode::UNAUTHORIZED {
                self.found.lock().signed |= login.is_some();
                return Ok(response);
            }
            match &self.origin.login {
                None => return Err(GitError::LoginNeeded { doing: self.talk.doing(step.doing()) }),
                Some(_) if !ours => return Err(self.redirect(step, RedirectError::Stranger(shown(url)))),
                Some(_) if login.is_some() => {
                    let words = self.words(step, response);
                    return Err(GitError::LoginRefused { doing: self.talk.doing(step.doing()), words });
                }
                Some(_) => signed = true,
            }
        }
    }

    /// Begins to post a body whose end is not there yet.
    fn stream(&self, pack: Pack) -> Result<Upload, GitError> {
        let url = self.service(pack);
        self.origin.guard.check_literal(url.host_str().unwrap_or_default()).map_err(client::refused)?;
        let ours = same_place(&self.origin.base, &url);
        if ours && self.origin.login.is_some() && !self.found.lock().signed {
            self.post(pack, &Bytes::from_static(FLUSH))?;
        }
        let signed = ours && self.found.lock().signed;
        let (pieces, queue) = mpsc::channel::<Bytes>(QUEUE);
        let body = stream::unfold(queue, |mut queue| async move {
            let piece = queue.recv().await?;
            Some((Ok::<_, Infallible>(piece), queue))
        });
        let mut sent = request(self.client.request(Method::POST, url), pack).body(Body::wrap_stream(body));
        if let Some((user, password)) = self.origin.login.as_ref().filter(|_| signed) {
            sent = sent.basic_auth(user, Some(password.expose()));
        }
        Ok(Upload { pieces, answer: Answering::Awaited(sent.send().boxed()) })
    }

    /// Checks that an answer is a success and comes from git.
    fn check(&self, step: Step, response: Response, wanted: &str) -> Result<Response, GitError> {
        let status = response.status();
        if status.is_redirection() && response.headers().contains_key(LOCATION) {
            return Err(self.redirect(step, RedirectError::Late));
        }
        if status == StatusCode::UNAUTHORIZED {
            if self.origin.login.is_none() {
                return Err(GitError::LoginNeeded { doing: self.talk.doing(step.doing()) });
            }
            let words = self.words(step, response);
            return Err(GitError::LoginRefused { doing: self.talk.doing(step.doing()), words });
        }
        if !status.is_success() {
            let retry_after = response.headers().contains_key(RETRY_AFTER);
            let words = self.words(step, response);
            return Err(GitError::Status {
                doing: self.talk.doing(step.doing()),
                answer: Answer { status, retry_after, words },
            });
        }
        let kind = content_type(response.headers());
        if kind == wanted {
            return Ok(response);
        }
        let kind = protocol::scrub(kind.as_bytes(), self.talk.secret.as_ref());
        let kind = if kind.is_empty() { "something without a content type".to_owned() } else { kind };
        Err(GitError::NotGit { doing: self.talk.doing(step.doing()), kind })
    }

    /// Reads what a server says with a refusal, where it says it in plain text.
    fn words(&self, step: Step, mut response: Response) -> String {
        let mut words = Vec::new();
        if content_type(response.headers()) == "text/plain" {
            let _ = self.wait(step, REFUSAL_PATIENCE, async {
                while let Ok(Some(piece)) = response.chunk().await {
                    words.extend_from_slice(&piece);
                    if words.len() > REFUSAL_BODY {
                        break;
                    }
                }
            }); // the refusal is known without them
        }
        words.truncate(REFUSAL_BODY);
        protocol::scrub(&words, self.talk.secret.as_ref())
    }

    fn wait<T>(&self, step: Step, patience: Duration, work: impl Future<Output = T>) -> Result<T, GitError> {
        self.talk.wait(&self.origin.handle, step.doing(), patience, work)
    }

    fn service(&self, pack: Pack) -> Url {
        service_of(&self.found.lock().base, pack.name())
    }

    fn redirect(&self, step: Step, reason: RedirectError) -> GitError {
        GitError::Redirect { doing: self.talk.doing(step.doing()), reason }
    }
}

/// A large body on its way.
struct Upload {
    pieces: mpsc::Sender<Bytes>,
    answer: Answering,
}

/// The answer to a body that is on its way.
enum Answering {
    Awaited(BoxFuture<'static, Result<Response, reqwest::Error>>),
    /// It began before the end of the body, as that of git does. It is a success.
    Begun(Reply),
}

/// Whether the server takes more of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    More,
    Nothing,
}

/// What came of handing a piece over.
enum Handed {
    /// It waits for the socket.
    Over,
    /// The server answers before it has the whole body; the piece is still here.
    Answered(Result<Response, reqwest::Error>),
    /// Nobody takes it any more: the answer, as far as it came, says why.
    Unwanted,
}

impl Upload {
    /// Hands a piece to the socket, unless the server has something to say about what it has. What it says is kept: who
    /// gives up in the middle closes the connection behind it.
    async fn hand(&mut self, piece: &Bytes) -> Handed {
        let answer = match &mut self.answer {
            Answering::Awaited(answer) => answer,
            Answering::Begun(reply) => loop {
                tokio::select! {
                    biased;
                    heard = reply.hear() => if heard == Heard::End { return Handed::Unwanted },
                    sent = self.pieces.send(piece.clone()) => {
                        return if sent.is_ok() { Handed::Over } else { Handed::Unwanted };
                    }
                }
            },
        };
        tokio::select! {
            biased;
            answer = &mut *answer => Handed::Answered(answer),
            sent = self.pieces.send(piece.clone()) => match sent {
                Ok(()) => Handed::Over,
                // The answer says why.
                Err(_) => Handed::Answered(answer.await),
            },
        }
    }
}

/// An answer that is read piece by piece.
struct Reply {
    response: Response,
    piece: Bytes,
    /// What came while the question was still being asked, and how it ended, if it did.
    early: VecDeque<Bytes>,
    ended: Option<Result<(), reqwest::Error>>,
}

/// What came of listening to an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    /// A piece of it, which is kept.
    Piece,
    /// Its end.
    End,
}

impl Reply {
    fn new(response: Response) -> Self {
        Self { response, piece: Bytes::new(), early: VecDeque::new(), ended: None }
    }

    /// Waits for the next piece, and keeps it. Nothing is lost when it is dropped.
    async fn hear(&mut self) -> Heard {
        if self.early.len() >= EARLY {
            // Enough said: the rest is read after the question.
            return std::future::pending().await;
        }
        match self.response.chunk().await {
            Ok(Some(piece)) => {
                self.early.push_back(piece);
                Heard::Piece
            }
            ended => {
                self.ended = Some(ended.map(drop));
                Heard::End
            }
        }
    }

    /// Returns the next piece; nothing at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, reqwest::Error> {
        if let Some(piece) = self.early.pop_front() {
            return Ok(Some(piece));
        }
        match self.ended.take() {
            Some(ended) => {
                self.ended = Some(Ok(()));
                ended.map(|()| None)
            }
            None => self.response.chunk().await,
        }
    }

    /// Fills the buffer with what is there, waiting for the first byte; 0 is the end.
    fn read(&mut self, conversation: &Conversation, step: Step, buffer: &mut [u8]) -> Result<usize, GitError> {
        while self.piece.is_empty() {
            let talk = &conversation.talk;
            let next = conversation.wait(step, step.patience(), self.next())?;
            match next.map_err(|error| client::sort(talk.doing(step.doing()), error))? {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let piece = self.piece.split_to(buffer.len().min(self.piece.len()));
        // Both have the length of the shorter one.
        for (slot, byte) in buffer.iter_mut().zip(&piece) {
            *slot = *byte;
        }
        Ok(piece.len())
    }
}

/// The list of references, asked for with the first read.
pub(super) struct Listing {
    conversation: Arc<Conversation>,
    pack: Pack,
    reply: Option<Reply>,
    capabilities: Capabilities,
}

impl Listing {
    pub(super) fn new(conversation: Arc<Conversation>, pack: Pack) -> Self {
        Self { conversation, pack, reply: None, capabilities: Capabilities::default() }
    }

    fn advance(&mut self, buffer: &mut [u8]) -> Result<usize, GitError> {
        let reply = match &mut self.reply {
            Some(reply) => reply,
            slot => slot.insert(Reply::new(self.conversation.list(self.pack)?)),
        };
        let count = reply.read(&self.conversation, Step::List, buffer)?;
        if self.pack == Pack::Receive
            && let Some(offered) = self.capabilities.feed(buffer.get(..count).unwrap_or_default())
        {
            self.conversation.found.lock().atomic = offered;
        }
        Ok(count)
    }
}

impl Read for Listing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.advance(buffer).map_err(|error| self.conversation.talk.fail(error))
    }
}

impl Write for Listing {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One POST: what libgit2 writes is its body, what it reads then is the answer.
pub(super) struct Exchange {
    conversation: Arc<Conversation>,
    pack: Pack,
    stage: Stage,
}

enum Stage {
    /// The body is small so far.
    Gathering(Vec<u8>),
    /// The body is on its way; the bytes wait to be a piece.
    Sending(Box<Upload>, Vec<u8>),
    /// The server has heard enough: the rest of the body is for nobody, and the answer is there.
    Unwanted(Reply),
    /// The answer comes.
    Reading(Reply),
    /// It failed.
    Broken,
}

impl Exchange {
    pub(super) fn new(conversation: Arc<Conversation>, pack: Pack) -> Self {
        Self { conversation, pack, stage: Stage::Gathering(Vec::new()) }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), GitError> {
        self.stage = match std::mem::replace(&mut self.stage, Stage::Broken) {
            Stage::Gathering(mut body) => {
                body.extend_from_slice(bytes);
                if body.len() <= SMALL_BODY {
                    Stage::Gathering(body)
                } else {
                    let upload = self.conversation.stream(self.pack)?;
                    self.send(Box::new(upload), self.finished(body))?
                }
            }
            Stage::Sending(upload, mut piece) => {
                piece.extend_from_slice(bytes);
                if piece.len() < PIECE { Stage::Sending(upload, piece) } else { self.send(upload, piece)? }
            }
            Stage::Unwanted(reply) => Stage::Unwanted(reply),
            // libgit2 makes a new exchange for each question.
            Stage::Reading(_) | Stage::Broken => return Err(self.cut()),
        };
        Ok(())
    }

    fn advance(&mut self, buffer: &mut [u8]) -> Result<usize, GitError> {
        let mut reply = match std::mem::replace(&mut self.stage, Stage::Broken) {
            Stage::Gathering(body) => {
                let body = Bytes::from(self.finished(body));
                Reply::new(self.conversation.post(self.pack, &body)?)
            }
            Stage::Sending(upload, piece) => self.end(*upload, piece)?,
            Stage::Reading(reply) | Stage::Unwanted(reply) => reply,
            Stage::Broken => return Err(self.cut()),
        };
        let count = reply.read(&self.conversation, self.step(), buffer)?;
        self.stage = Stage::Reading(reply);
        Ok(count)
    }

    /// Asks for an atomic push in the beginning of a body, where that is possible.
    fn finished(&self, mut body: Vec<u8>) -> Vec<u8> {
        if self.pack == Pack::Receive && self.conversation.found.lock().atomic {
            protocol::ask_atomic(&mut body);
        }
        body
    }

    fn send(&self, mut upload: Box<Upload>, piece: Vec<u8>) -> Result<Stage, GitError> {
        Ok(match self.hand(&mut upload, piece)? {
            Wanted::More => Stage::Sending(upload, Vec::with_capacity(PIECE)),
            Wanted::Nothing => Stage::Unwanted(self.end(*upload, Vec::new())?),
        })
    }

    /// Hands a piece over. An answer that begins meanwhile ends it where it is a refusal.
    fn hand(&self, upload: &mut Upload, piece: Vec<u8>) -> Result<Wanted, GitError> {
        let piece = Bytes::from(piece);
        loop {
            match self.conversation.wait(self.step(), SILENCE, upload.hand(&piece))? {
                Handed::Over => return Ok(Wanted::More),
                Handed::Answered(answer) => upload.answer = Answering::Begun(self.answered(answer)?),
                Handed::Unwanted => return Ok(Wanted::Nothing),
            }
        }
    }

    /// Ends a large body, and waits for the answer.
    fn end(&self, mut upload: Upload, piece: Vec<u8>) -> Result<Reply, GitError> {
        if !piece.is_empty() {
            self.hand(&mut upload, piece)?;
        }
        let Upload { pieces, answer } = upload;
        drop(pieces);
        match answer {
            Answering::Begun(reply) => Ok(reply),
            Answering::Awaited(answer) => {
                let answer = self.conversation.wait(self.step(), self.step().patience(), answer)?;
                self.answered(answer)
            }
        }
    }

    fn answered(&self, reply: Result<Response, reqwest::Error>) -> Result<Reply, GitError> {
        let doing = || self.conversation.talk.doing(self.step().doing());
        let response = reply.map_err(|error| client::sort(doing(), error))?;
        self.conversation.check(self.step(), response, &result_of(self.pack)).map(Reply::new)
    }

    fn cut(&self) -> GitError {
        GitError::Cut { doing: self.conversation.talk.doing(self.step().doing()) }
    }

    fn step(&self) -> Step {
        Step::Exchange(self.pack)
    }
}

impl Read for Exchange {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.advance(buffer).map_err(|error| self.conversation.talk.fail(error))
    }
}

impl Write for Exchange {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.take(bytes).map_err(|error| self.conversation.talk.fail(error))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn request(builder: RequestBuilder, pack: Pack) -> RequestBuilder {
    builder.header(CONTENT_TYPE, format!("application/x-{}-request", pack.name())).header(ACCEPT, result_of(pack))
}

fn result_of(pack: Pack) -> String {
    format!("application/x-{}-result", pack.name())
}

/// Returns the content type in lower case, without parameters.
fn content_type(headers: &HeaderMap) -> String {
    let text = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let kind = text.split(|byte| *byte == b';').next().unwrap_or_default();
    String::from_utf8_lossy(kind.trim_ascii()).to_ascii_lowercase()
}
