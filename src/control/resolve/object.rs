//! The settings of a bucket, and how the operator logs in there.

use super::{Obstacle, SecretReader};
use crate::config::Ambient;
use crate::control::secrets::Content;
use crate::metrics::SinkType;
use crate::sinks::object::{Credentials, ObjectConfig};
use crate::validate::ValidatedObject;

/// Keys of a Secret that may name a key of S3, the first one winning.
const IDS: [&str; 2] = ["accessKeyID", "AWS_ACCESS_KEY_ID"];
/// The same for the key itself.
const SECRETS: [&str; 2] = ["secretAccessKey", "AWS_SECRET_ACCESS_KEY"];
/// The same for what goes with keys that were issued for a while.
const SESSIONS: [&str; 2] = ["sessionToken", "AWS_SESSION_TOKEN"];
/// Key of a Secret with the key of a service account of Google.
const SERVICE_ACCOUNT: [&str; 1] = ["credentials.json"];

impl SecretReader<'_> {
    /// Resolves a sink of type `s3` or `gcs`.
    pub(super) fn object(&mut self, object: &ValidatedObject) -> Result<ObjectConfig, Obstacle> {
        let credentials = match &object.secret_ref {
            Some(secret) => {
                let content = self.read("spec.secretRef", secret)?;
                log_in(object.kind, &content)
                    .map_err(|lack| self.failed("spec.secretRef", &format!("Secret {:?} has {lack}", secret.name)))?
            }
            None => of_the_platform(object.kind, &self.control.parts.config.delivery.object)
                .map_err(|lack| self.failed("spec.secretRef", lack))?,
        };
        Ok(ObjectConfig {
            sink: self.sink.clone(),
            kind: object.kind,
            cluster: object.cluster.clone(),
            bucket: object.bucket.clone(),
            region: object.region.clone(),
            addressing: object.addressing,
            credentials,
            tls: self.tls(&object.tls)?,
            encoding: object.encoding.clone(),
            path_template: object.path_template.clone(),
            retention: object.retention,
        })
    }
}

/// Makes credentials of a Secret, or says what it has instead.
fn log_in(kind: SinkType, content: &Content) -> Result<Credentials, &'static str> {
    if kind == SinkType::Gcs
        && let Some(key) = content.first(&SERVICE_ACCOUNT)
    {
        return Ok(Credentials::ServiceAccount(key));
    }
    match (content.first(&IDS), content.first(&SECRETS)) {
        (Some(id), Some(secret)) => {
            Ok(Credentials::Keys { id: id.expose().to_owned(), secret, session: content.first(&SESSIONS) })
        }
        (Some(_), None) => Err("an accessKeyID and no secretAccessKey"),
        (None, Some(_)) => Err("a secretAccessKey and no accessKeyID"),
        (None, None) if kind == SinkType::Gcs => {
            Err("none of the keys credentials.json, or accessKeyID and secretAccessKey")
        }
        (None, None) => Err("none of the keys accessKeyID and secretAccessKey"),
    }
}

/// Takes what the platform gives the process.
fn of_the_platform(kind: SinkType, ambient: &Ambient) -> Result<Credentials, &'static str> {
    if kind == SinkType::Gcs {
        let file = ambient.google.clone().map(Credentials::GoogleFile);
        return file.ok_or(
            "is missing, and the operator has no GOOGLE_APPLICATION_CREDENTIALS; name a Secret with credentials.json",
        );
    }
    if let Some(keys) = &ambient.keys {
        let (id, secret, session) = (keys.id.clone(), keys.secret.clone(), keys.session.clone());
        return Ok(Credentials::Keys { id, secret, session });
    }
    let role = ambient.role.clone().map(|(role, token_file)| Credentials::WebIdentity { role, token_file });
    role.ok_or(
        "is missing, and the operator has neither a role (AWS_ROLE_ARN) nor keys in its environment; name a Secret with \
         accessKeyID and secretAccessKey",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AmbientKeys;
    use crate::secret::Secret;

    fn said(outcome: Result<Credentials, &'static str>) -> String {
        match outcome {
            Ok(Credentials::Keys { id, secret, session }) => {
                format!("{id}:{}:{}", secret.expose(), session.map(|it| it.expose().to_owned()).unwrap_or_default())
            }
            Ok(Credentials::WebIdentity { role, token_file }) => format!("{role} {}", token_file.display()),
            Ok(Credentials::ServiceAccount(key)) => format!("account {}", key.expose()),
            Ok(Credentials::GoogleFile(path)) => format!("file {}", path.display()),
            Err(lack) => lack.to_owned(),
        }
    }

    #[test]
    fn a_secret_logs_in_with_what_it_has() {
        let (s3, gcs) = (SinkType::S3, SinkType::Gcs);
        for (kind, data, want) in [
            (s3, vec![("accessKeyID", "a"), ("secretAccessKey", " s\n")], "a:s:"),
            (s3, vec![("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "s"), ("sessionToken", "t")], "a:s:t"),
            (s3, vec![("accessKeyID", "a")], "an accessKeyID and no secretAccessKey"),
            (s3, vec![("secretAccessKey", "a")], "a secretAccessKey and no accessKeyID"),
            (s3, vec![("credentials.json", "{}")], "none of the keys accessKeyID and secretAccessKey"),
            (gcs, vec![("credentials.json", "{}"), ("accessKeyID", "a")], "account {}"),
            (gcs, vec![("accessKeyID", "a"), ("secretAccessKey", "s")], "a:s:"),
            (gcs, vec![("token", "t")], "none of the keys credentials.json, or accessKeyID and secretAccessKey"),
        ] {
            assert_eq!(said(log_in(kind, &Content::of(&data))), want, "{data:?}");
        }
    }

    #[test]
    fn without_a_secret_the_platform_has_to_help() {
        let keys = AmbientKeys { id: "a".to_owned(), secret: Secret::new("s"), session: None };
        let role = Some(("r".to_owned(), "/t".into()));
        let none = Ambient::default();
        assert!(said(of_the_platform(SinkType::S3, &none)).contains("name a Secret with accessKeyID"));
        assert!(said(of_the_platform(SinkType::Gcs, &none)).contains("name a Secret with credentials.json"));
        let with_role = Ambient { role, ..none.clone() };
        assert_eq!(said(of_the_platform(SinkType::S3, &with_role)), "r /t");
        assert_eq!(said(of_the_platform(SinkType::S3, &Ambient { keys: Some(keys), ..with_role })), "a:s:");
        let google = Ambient { google: Some("/g".into()), ..none };
        assert_eq!(said(of_the_platform(SinkType::Gcs, &google)), "file /g");
    }
}
