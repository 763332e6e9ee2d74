//! A journey through the API with a client that progenitor has generated.

use std::env;
use std::error::Error;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use client::{Client, types};
use progenitor_client::Error as CallError;
use serde_json::Value;
use totp_rs::{Builder, Secret};
use uuid::Uuid;

mod client {
    progenitor::generate_api!(spec = "openapi.json", interface = Builder);
}

const PASSWORD: &str = "correct-Horse7battery";

type Outcome<T> = Result<T, Box<dyn Error>>;

/// A client with an access token.
fn caller(url: &str, token: &str) -> Outcome<Client> {
    let authorization = format!("Bearer {token}").parse()?;
    let http = reqwest::Client::builder()
        .default_headers([(reqwest::header::AUTHORIZATION, authorization)].into_iter().collect());
    Ok(Client::new_with_client(url, http.build()?))
}

/// The tokens of a login that is over.
fn signed_in(answer: types::LoginResponse) -> Outcome<types::TokenResponse> {
    match answer {
        types::LoginResponse::TokenResponse(tokens) => Ok(tokens),
        other => Err(format!("not signed in: {other:?}").into()),
    }
}

/// The code of the problem that a call is refused with.
fn refused<T: std::fmt::Debug>(answer: Result<T, CallError<types::Problem>>) -> Outcome<(u16, types::ProblemCode)> {
    match answer {
        Err(CallError::ErrorResponse(problem)) => Ok((problem.status().as_u16(), problem.code)),
        other => Err(format!("no refusal: {other:?}").into()),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    let dev: Value = serde_json::from_str(&fs::read_to_string(env::var("DEV_JSON")?)?)?;
    let url = dev["url"].as_str().ok_or("no URL")?;
    let nobody = Client::new(url);
    let email = format!("rs-{}@example.com", Uuid::new_v4());
    let login =
        |password: &str| nobody.login().body(types::LoginRequest::builder().email(email.as_str()).password(password)).send();

    let registration =
        types::RegistrationRequest::builder().email(email.as_str()).password(PASSWORD).display_name(Some("Ann".parse()?));
    let account = nobody.register().body(registration).send().await?;
    assert_eq!(*account.email, email);
    assert_eq!(refused(login("wrong").await)?, (401, types::ProblemCode::InvalidCredentials));

    let first = signed_in(login(PASSWORD).await?.into_inner())?;
    let ann = caller(url, &first.access_token)?;
    let secret = ann.enrol_totp().send().await?.secret.clone();
    let secret = Secret::try_from_base32(secret).map_err(|error| format!("{error:?}"))?;
    let app = Builder::new().with_secret(secret.as_bytes().to_vec()).build().map_err(|error| format!("{error:?}"))?;
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map(|elapsed| elapsed.as_secs());
    let confirmation = types::TotpConfirmationRequest::builder().code(app.generate(now()?).to_string());
    assert_eq!(ann.confirm_totp().body(confirmation).send().await?.recovery_codes.len(), 10);

    let types::LoginResponse::SecondFactorChallenge(challenge) = login(PASSWORD).await?.into_inner() else {
        return Err("no second factor was asked for".into());
    };
    let factor = types::SecondFactorRequest::builder()
        .challenge_token(challenge.challenge_token)
        .code(app.generate(now()? + 30).to_string());
    let second = signed_in(nobody.login_with_second_factor().body(factor).send().await?.into_inner())?;
    let refresh = types::RefreshRequest::builder().refresh_token(second.refresh_token.clone());
    let types::RefreshResponse::TokenResponse(refreshed) = nobody.refresh_tokens().body(refresh).send().await?.into_inner()
    else {
        return Err("no tokens were given".into());
    };
    let other = caller(url, &refreshed.access_token)?;

    let sessions = ann.list_my_sessions().limit(10).send().await?.into_inner().items;
    assert!(sessions.iter().any(|session| session.session_id == second.session_id), "{sessions:?}");
    ann.revoke_my_session().session_id(second.session_id).send().await?;
    assert_eq!(refused(other.get_current_session().send().await)?, (401, types::ProblemCode::InvalidToken));

    let known: types::LoginRequest = serde_json::from_value(dev["accounts"]["admin"].clone())?;
    let admin = caller(url, &signed_in(nobody.login().body(known).send().await?.into_inner())?.access_token)?;
    let policy = admin.get_policy().send().await?.into_inner();
    let mut proposal = serde_json::to_value(policy)?;
    proposal.as_object_mut().ok_or("no policy")?.remove("version");
    proposal["lockout"]["threshold"] = 7.into();
    proposal["reason"] = "a client's journey".into();
    let proposal: types::PolicyRequest = serde_json::from_value(proposal)?;
    let changed = admin.change_policy().body(proposal).send().await?.into_inner();
    assert_eq!(changed.lockout.threshold, 7);
    assert_eq!(admin.list_accounts().limit(1).send().await?.items.len(), 1);
    println!("Rust: register, log in, second factor, refresh, list, revoke, change the policy");
    Ok(())
}
