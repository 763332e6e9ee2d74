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
    // The addresses are what the client's own log shows, and those that the cluster gossips have no credentials either.
    let addresses: Vec<ServerAddr> = addresses.into_iter().map(without_credentials).collect::<Result<_, _>>()?;
    if let Some(path) = credentials {
        options =
            options.credentials_file(path).await.map_err(|error| format!("NATS_CREDS cannot be read: {error}"))?;
    }
    let options = options.name("fulexo").retry_on_initial_connect().client_capacity(256);
    options.connect(addresses).await.map_err(|error| format!("NATS cannot be set up: {}", error.kind()))
}

fn without_credentials(address: ServerAddr) -> Result<ServerAddr, String> {
    let mut url = address.into_inner();
    // Refused only for URLs that have no host to put credentials before.
    let stripped = url.set_password(None).and_then(|()| url.set_username(""));
    let address = stripped.ok().and_then(|()| ServerAddr::from_url(url).ok());
    address.ok_or_else(|| "NATS_URL is not a URL of NATS, or a list of them".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_connected_to_shows_no_credentials() {
        for text in ["nats://user:hunter2@one.example:4223", "tls://hunter2@two.example", "hunter2:hunter2@[::1]:4222"]
        {
            let address = without_credentials(text.parse().unwrap()).unwrap();
            assert!(!format!("{address:?}").contains("hunter2") && !address.has_user_pass(), "{text}");
        }
    }
}
