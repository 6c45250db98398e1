//! The settings of a stream of NATS, and how the operator logs in there.

use super::{Obstacle, SecretReader};
use crate::api::v1alpha1::sink::ProvisioningMode;
use crate::sinks::nats::{Creation, NatsConfig, NatsCredentials};
use crate::validate::ValidatedNats;

impl SecretReader<'_> {
    /// Resolves a sink of type `nats`.
    pub(super) fn nats(&mut self, nats: &ValidatedNats) -> Result<NatsConfig, Obstacle> {
        Ok(NatsConfig {
            url: nats.url.clone(),
            stream: nats.stream.clone(),
            subject: nats.subject.clone(),
            mode: nats.mode,
            create: match nats.provisioning {
                ProvisioningMode::Ensure => Creation::Ensure,
                ProvisioningMode::Existing => Creation::Existing,
            },
            credentials: self.nats_credentials(nats)?,
            tls: self.tls(&nats.tls)?,
        })
    }

    fn nats_credentials(&mut self, nats: &ValidatedNats) -> Result<NatsCredentials, Obstacle> {
        let Some((field, secret)) = &nats.secret_ref else { return Ok(NatsCredentials::None) };
        let content = self.read(field, secret)?;
        if let Some(file) = content.first(&["creds"]) {
            return Ok(NatsCredentials::Creds(file));
        }
        if let Some(seed) = content.first(&["nkeySeed"]) {
            return Ok(NatsCredentials::Seed(seed));
        }
        if let Some(token) = content.first(&["token"]) {
            return Ok(NatsCredentials::Token(token));
        }
        let user = self.value(field, secret, &content, &["creds", "nkeySeed", "token", "username"])?;
        let password = self.value(field, secret, &content, &["password"])?;
        Ok(NatsCredentials::User(user.expose().to_owned(), password))
    }
}
