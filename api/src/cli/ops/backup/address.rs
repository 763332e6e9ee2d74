//! The target of backups: a directory, or a bucket whose host and credentials are in the variables that the programs of Amazon read.

use std::path::PathBuf;

use fulexo_ops::backup::TargetAddress;
use fulexo_ops::s3::{S3Credentials, S3Settings};
use zeroize::Zeroizing;

use super::places::{place, text};
use crate::cli::failure::Failure;

/// Returns the place of the backups.
pub fn target_dir(given: Option<PathBuf>, option: &str) -> Result<TargetAddress, Failure> {
    address(place(given, std::env::var("FULEXO_BACKUP_TO"), option, "FULEXO_BACKUP_TO")?)
}

/// Reads the name of a place: one that begins with `s3://` is a bucket.
pub fn address(place: PathBuf) -> Result<TargetAddress, Failure> {
    let Some(bucket) = place.to_str().filter(|text| text.starts_with("s3://")) else {
        return Ok(TargetAddress::Directory(place));
    };
    let endpoint = variable("AWS_ENDPOINT_URL_S3").or_else(|| variable("AWS_ENDPOINT_URL"));
    let region = variable("AWS_REGION").or_else(|| variable("AWS_DEFAULT_REGION"));
    let allows_http = variable("FULEXO_BACKUP_ALLOW_HTTP").as_deref() == Some("true");
    let settings = S3Settings::parse(bucket, endpoint.as_deref(), region.as_deref(), credentials()?, allows_http);
    settings
        .map(|settings| TargetAddress::Bucket(Box::new(settings)))
        .map_err(|reason| Failure::Misused(format!("{bucket}: {reason}")))
}

/// Returns the length of the pieces that are uploaded to a bucket, in bytes.
pub fn piece_length() -> Result<Option<u64>, Failure> {
    const NAME: &str = "FULEXO_BACKUP_PIECE_MIB";
    let Some(text) = variable(NAME) else { return Ok(None) };
    match text.parse() {
        Ok(mebibytes @ 5..=1_024) => Ok(Some(mebibytes << 20)),
        Ok(0_u64..) | Err(_) => Err(Failure::Misused(format!("{NAME} is a number from 5 to 1024"))),
    }
}

fn credentials() -> Result<S3Credentials, Failure> {
    let missing =
        |name: &str| Failure::Misused(format!("{name} is missing: a bucket needs the id of a key, and the key"));
    let key_id = variable("AWS_ACCESS_KEY_ID").ok_or_else(|| missing("AWS_ACCESS_KEY_ID"))?;
    let secret = match (variable("AWS_SECRET_ACCESS_KEY"), variable("AWS_SECRET_ACCESS_KEY_FILE")) {
        (Some(_), Some(_)) => {
            let text = "AWS_SECRET_ACCESS_KEY and AWS_SECRET_ACCESS_KEY_FILE are both set: set one of them";
            return Err(Failure::Misused(text.to_owned()));
        }
        (Some(secret), None) => Zeroizing::new(secret),
        (None, Some(file)) => Zeroizing::new(text(&PathBuf::from(file))?.trim_end().to_owned()),
        (None, None) => return Err(missing("AWS_SECRET_ACCESS_KEY")),
    };
    Ok(S3Credentials { key_id, secret, token: variable("AWS_SESSION_TOKEN").map(Zeroizing::new) })
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}
