//! git over SSH: the distribution's sshd with keys of its own, letting in the account that runs it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use parking_lot::Mutex;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::super::process::{self, Guard, Process, Signal};
use super::super::tools;
use super::{Repositories, Repository};

/// Where sshd locks itself in before a client has logged in. It insists on it when it is root.
const PRIVILEGE_SEPARATION: &str = "/run/sshd";

/// Kinds of keys, as `ssh-keygen` is told.
const ED25519: &[&str] = &["-t", "ed25519"];
const RSA: &[&str] = &["-t", "rsa", "-b", "2048"];
const RSA_PEM: &[&str] = &["-t", "rsa", "-b", "2048", "-m", "PEM"];

/// An SSH server for all repositories of a directory. Dropping it ends it.
#[derive(Debug)]
pub struct SshServer {
    process: Mutex<Option<Process>>,
    dir: PathBuf,
    port: u16,
    user: String,
    guard: Arc<Guard>,
}

impl SshServer {
    /// Makes keys, starts the server and returns when it answers.
    pub async fn start(repositories: &Repositories) -> Result<Self> {
        let dir = repositories.dir().join("ssh");
        fs::create_dir(&dir)?;
        fs::set_permissions(&dir, Permissions::from_mode(0o700))?;
        let this = Self {
            process: Mutex::default(),
            dir,
            port: process::free_port()?,
            user: process::run(Command::new("id").arg("-un"))?.trim().to_owned(),
            guard: Arc::clone(repositories.guard()),
        };
        for (name, kind) in [("host-ed25519", ED25519), ("host-rsa", RSA), ("other-host", ED25519)] {
            this.make_key(name, kind, "")?;
        }
        this.make_key("user", ED25519, "")?;
        this.admit_all()?;
        this.configure()?;
        this.restart().await?;
        Ok(this)
    }

    /// Returns the URL of a repository.
    pub fn url(&self, repository: &Repository) -> String {
        self.url_at(self.port, repository)
    }

    /// Returns the URL of a repository behind another port, as a proxy has one.
    pub fn url_at(&self, port: u16, repository: &Repository) -> String {
        format!("ssh://{}@127.0.0.1:{port}{}", self.user, repository.path().display())
    }

    /// Returns the port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the account that logs in.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Returns a private key that the server lets in: Ed25519, in OpenSSH's form.
    pub fn private_key(&self) -> Result<String> {
        self.read("user")
    }

    /// Returns another one that it lets in: RSA, as PEM.
    pub fn rsa_private_key(&self) -> Result<String> {
        self.admitted_key("user-rsa", RSA_PEM, "")
    }

    /// Returns another one that it lets in, locked with a passphrase.
    pub fn locked_private_key(&self, passphrase: &str) -> Result<String> {
        self.admitted_key("user-locked", ED25519, passphrase)
    }

    /// Returns a private key that nobody lets in.
    pub fn strange_private_key(&self) -> Result<String> {
        self.make_key("stranger", ED25519, "")?;
        self.read("stranger")
    }

    /// Returns the lines of `known_hosts` that name the server.
    pub fn known_hosts(&self) -> Result<String> {
        self.known_hosts_at(self.port)
    }

    /// Returns the lines of `known_hosts` that name the server behind another port.
    pub fn known_hosts_at(&self, port: u16) -> Result<String> {
        Ok(self.known_host(port, "host-ed25519")? + &self.known_host(port, "host-rsa")?)
    }

    /// Returns a line of `known_hosts` that names the server with a key that it does not have.
    pub fn other_known_hosts(&self) -> Result<String> {
        self.known_host(self.port, "other-host")
    }

    /// Lets nobody in any more.
    pub fn admit_nobody(&self) -> Result<()> {
        self.write("authorized_keys", "")
    }

    /// Lets in whoever has one of the private keys that it gave out.
    pub fn admit_all(&self) -> Result<()> {
        let mut keys = String::new();
        for name in ["user", "user-rsa", "user-locked"] {
            if self.dir.join(name).exists() {
                keys += &self.read(&format!("{name}.pub"))?;
            }
        }
        self.write("authorized_keys", &keys)
    }

    /// Returns how often somebody logged in.
    pub fn logins(&self) -> Result<usize> {
        Ok(self.read("log")?.matches("Accepted publickey").count())
    }

    /// Ends the server and every session at once. Its port stays reserved for [`Self::restart`].
    pub async fn stop(&self) -> Result<()> {
        let Some(process) = self.process.lock().take() else { return Ok(()) };
        // Sessions lead groups of their own.
        for session in process::children(process.pid())? {
            process::signal_process(session, Signal::Kill)?;
        }
        process.stop(Signal::Term).await.map(drop)
    }

    /// Starts the server on its port and waits until it answers.
    pub async fn restart(&self) -> Result<()> {
        let mut command = Command::new(tools::sshd()?);
        command.args(["-D", "-e", "-f"]).arg(self.dir.join("sshd_config")).env("LC_ALL", "C.UTF-8");
        let mut server = Process::spawn("sshd", &mut command, &self.dir.join("log"), Signal::Term, &self.guard)?;
        let port = self.port;
        server.ready(Duration::from_secs(20), || greeting(port)).await?;
        *self.process.lock() = Some(server);
        Ok(())
    }

    fn configure(&self) -> Result<()> {
        if process::run(Command::new("id").arg("-u"))?.trim() == "0" {
            fs::create_dir_all(PRIVILEGE_SEPARATION)
                .with_context(|| format!("sshd wants {PRIVILEGE_SEPARATION}, which cannot be made"))?;
        }
        let dir = self.dir.display();
        let settings = [
            format!("Port {}", self.port),
            "ListenAddress 127.0.0.1".to_owned(),
            format!("HostKey {dir}/host-ed25519"),
            format!("HostKey {dir}/host-rsa"),
            format!("AuthorizedKeysFile {dir}/authorized_keys"),
            "PidFile none".to_owned(),
            // Its directory lies below the temporary one, which everybody may write to.
            "StrictModes no".to_owned(),
            "UsePAM no".to_owned(),
            "PasswordAuthentication no".to_owned(),
            "KbdInteractiveAuthentication no".to_owned(),
            "PermitRootLogin prohibit-password".to_owned(),
            "SetEnv GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null".to_owned(),
            // Tests knock often and at the same time.
            "MaxStartups 1000".to_owned(),
            "UseDNS no".to_owned(),
            "PrintMotd no".to_owned(),
            "LogLevel VERBOSE".to_owned(),
        ];
        self.write("sshd_config", &(settings.join("\n") + "\n"))
    }

    fn admitted_key(&self, name: &str, kind: &[&str], passphrase: &str) -> Result<String> {
        self.make_key(name, kind, passphrase)?;
        self.admit_all()?;
        self.read(name)
    }

    /// Makes a key in place of the one with this name.
    fn make_key(&self, name: &str, kind: &[&str], passphrase: &str) -> Result<()> {
        let path = self.dir.join(name);
        if path.exists() {
            fs::remove_file(&path)?;
        }
        let mut command = Command::new("ssh-keygen");
        command.args(["-q", "-C", name, "-N", passphrase]).args(kind).arg("-f").arg(&path);
        process::run(&mut command).map(drop)
    }

    fn known_host(&self, port: u16, key: &str) -> Result<String> {
        let public = self.read(&format!("{key}.pub"))?;
        let mut fields = public.split_whitespace();
        let mut field = || fields.next().context("an odd public key");
        Ok(format!("[127.0.0.1]:{port} {} {}\n", field()?, field()?))
    }

    fn read(&self, name: &str) -> Result<String> {
        fs::read_to_string(self.dir.join(name)).with_context(|| format!("failed to read {name}"))
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path: &Path = &self.dir.join(name);
        fs::write(path, text).with_context(|| format!("failed to write {}", path.display()))
    }
}

/// Waits for the first words of the server.
async fn greeting(port: u16) -> Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let mut words = [0; 4];
    stream.read_exact(&mut words).await?;
    ensure!(words == *b"SSH-", "the server speaks another language");
    Ok(())
}
