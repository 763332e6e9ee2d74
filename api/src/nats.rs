//! The one connection to NATS of a node: the doorbell, the relay and the feed share it. NATS may be down for as long as it
//! likes: whoever uses the connection works without it, or waits.

use async_nats::{Client, ConnectOptions, ServerAddr};

/// Connects in the background, now and whenever the connection breaks. `urls` names one server, or several of a
/// cluster, separated by commas; user and password are those of the first.
///
/// # Errors
/// Only when URL or credentials cannot be read. No text repeats a password.
pub async fn connect(urls: &str, credentials: Option<&str>) -> Result<Client, String> {
    let addresses = urls.split(',').map(|url| url.trim().parse());
    let addresses: Vec<ServerAddr> = addresses
        .collect::<Result<_, _>>()
        .map_err(|_| "NATS_URL is not a URL of NATS, or a list of them".to_owned())?;
    let first = addresses.first();
    let (user, password) = (first.and_then(ServerAddr::username), first.and_then(ServerAddr::password));
    let mut options = match (user, password) {
        (Some(user), Some(password)) => ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned()),
        (Some(token), None) => ConnectOptions::with_token(token.to_owned()),
        (None, _) => ConnectOptions::new(),
    };
    if let Some(path) = credentials {
        options =
            options.credentials_file(path).await.map_err(|error| format!("NATS_CREDS cannot be read: {error}"))?;
    }
    let options = options.name("fulexo").retry_on_initial_connect().client_capacity(256);
    options.connect(addresses).await.map_err(|error| format!("NATS cannot be set up: {}", error.kind()))
}
