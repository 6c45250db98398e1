//! What a server does wrong when it is told to, and how often it was asked for what.

use std::time::Duration;

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// The refs, before a fetch: `GET info/refs?service=git-upload-pack`.
    FetchRefs,
    /// Objects: `POST git-upload-pack`.
    UploadPack,
    /// The refs, before a push: `GET info/refs?service=git-receive-pack`.
    PushRefs,
    /// To take a push: `POST git-receive-pack`.
    ReceivePack,
    /// Anything else.
    Other,
}

impl Service {
    pub(super) fn of(path: &str, query: &str) -> Self {
        if path.ends_with("/git-upload-pack") {
            Self::UploadPack
        } else if path.ends_with("/git-receive-pack") {
            Self::ReceivePack
        } else if !path.ends_with("/info/refs") {
            Self::Other
        } else if query.split('&').any(|pair| pair == "service=git-receive-pack") {
            Self::PushRefs
        } else {
            Self::FetchRefs
        }
    }
}

/// What happens to a request instead of, or besides, its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The server answers with this, after it has read the request, and git hears nothing of it.
    Answer {
        /// Status code.
        status: u16,
        /// Headers.
        headers: Vec<(&'static str, String)>,
        /// Body.
        body: String,
    },
    /// The answer takes longer. Other faults still apply.
    Delay(Duration),
    /// The connection breaks after so many bytes of the request's body; git sees these and then the end.
    CutRequest(u64),
    /// The connection breaks when git has done what was asked, before anything of the answer is sent: the server took
    /// the push, and the client does not know.
    CutReply,
}

impl Fault {
    /// Answers with a status alone.
    pub fn status(status: u16) -> Self {
        Self::Answer { status, headers: Vec::new(), body: String::new() }
    }

    /// Answers 429 and names the seconds to wait.
    pub fn too_many_requests(retry_after_seconds: u32) -> Self {
        let headers = vec![("retry-after", retry_after_seconds.to_string())];
        Self::Answer { status: 429, headers, body: "slow down\n".to_owned() }
    }

    /// Sends the client to another URL.
    pub fn redirect(status: u16, location: &str) -> Self {
        Self::Answer { status, headers: vec![("location", location.to_owned())], body: String::new() }
    }

    /// Answers with a page for people, as a proxy does that wants a login.
    pub fn login_page() -> Self {
        Self::Answer {
            status: 200,
            headers: vec![("content-type", "text/html; charset=utf-8".to_owned())],
            body: "<!doctype html><title>Sign in</title><form method=\"post\"></form>\n".to_owned(),
        }
    }
}

/// How often a fault happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// With the next requests that it applies to.
    Next(u32),
    /// Until it is healed.
    Always,
}

/// Requests since the server was made, refused and broken ones included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Requests for refs before a fetch.
    pub fetch_refs: u64,
    /// Fetches.
    pub upload_pack: u64,
    /// Requests for refs before a push.
    pub push_refs: u64,
    /// Pushes.
    pub receive_pack: u64,
    /// Anything else.
    pub other: u64,
    /// Those of all these that were refused because they did not log in as they should.
    pub unauthorized: u64,
}

impl Counts {
    /// Returns the number of all requests.
    pub fn total(self) -> u64 {
        self.fetch_refs + self.upload_pack + self.push_refs + self.receive_pack + self.other
    }

    /// Returns what came since an earlier count.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            fetch_refs: self.fetch_refs - earlier.fetch_refs,
            upload_pack: self.upload_pack - earlier.upload_pack,
            push_refs: self.push_refs - earlier.push_refs,
            receive_pack: self.receive_pack - earlier.receive_pack,
            other: self.other - earlier.other,
            unauthorized: self.unauthorized - earlier.unauthorized,
        }
    }

    pub(super) fn add(&mut self, service: Service) {
        let counter = match service {
            Service::FetchRefs => &mut self.fetch_refs,
            Service::UploadPack => &mut self.upload_pack,
            Service::PushRefs => &mut self.push_refs,
            Service::ReceivePack => &mut self.receive_pack,
            Service::Other => &mut self.other,
        };
        *counter += 1;
    }
}

/// The faults that wait for requests, in the order in which they were asked for.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<Rule>);

#[derive(Debug)]
struct Rule {
    service: Option<Service>,
    times: Times,
    fault: Fault,
}

impl Rule {
    /// Tells whether it applies to a request, and counts that one.
    fn applies(&mut self, service: Service) -> bool {
        if self.service.is_some_and(|wanted| wanted != service) {
            return false;
        }
        match &mut self.times {
            Times::Always => true,
            Times::Next(0) => false,
            Times::Next(left) => {
                *left -= 1;
                true
            }
        }
    }
}

impl Faults {
    pub(super) fn push(&mut self, service: Option<Service>, times: Times, fault: Fault) {
        self.0.push(Rule { service, times, fault });
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Returns how long a request has to wait and what then breaks, if anything.
    pub(super) fn next(&mut self, service: Service) -> (Duration, Option<Fault>) {
        let mut delay = Duration::ZERO;
        for rule in &mut self.0 {
            if !rule.applies(service) {
                continue;
            }
            match &rule.fault {
                Fault::Delay(more) => delay += *more,
                fault => return (delay, Some(fault.clone())),
            }
        }
        (delay, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_tells_its_service() {
        for (path, query, service) in [
            ("/a.git/info/refs", "service=git-upload-pack", Service::FetchRefs),
            ("/a.git/info/refs", "", Service::FetchRefs),
            ("/a.git/info/refs", "x=y&service=git-receive-pack", Service::PushRefs),
            ("/a.git/git-upload-pack", "", Service::UploadPack),
            ("/a.git/git-receive-pack", "", Service::ReceivePack),
            ("/a.git/HEAD", "", Service::Other),
        ] {
            assert_eq!(Service::of(path, query), service, "{path}?{query}");
        }
    }

    #[test]
    fn faults_happen_in_order_as_often_as_asked() {
        let mut faults = Faults::default();
        faults.push(Some(Service::ReceivePack), Times::Next(2), Fault::status(503));
        faults.push(None, Times::Next(1), Fault::Delay(Duration::from_secs(1)));
        faults.push(None, Times::Always, Fault::CutReply);
        assert_eq!(faults.next(Service::ReceivePack), (Duration::ZERO, Some(Fault::status(503))));
        assert_eq!(faults.next(Service::FetchRefs), (Duration::from_secs(1), Some(Fault::CutReply)));
        assert_eq!(faults.next(Service::ReceivePack), (Duration::ZERO, Some(Fault::status(503))));
        assert_eq!(faults.next(Service::ReceivePack), (Duration::ZERO, Some(Fault::CutReply)));
        faults.clear();
        assert_eq!(faults.next(Service::ReceivePack), (Duration::ZERO, None));
    }
}
