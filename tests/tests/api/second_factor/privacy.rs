//! The remains of seeds, codes and challenges in the database: nothing that could be presented.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use fulexo_tests::{Authenticator, Client, Column, Node, PASSWORD, columns};
use serde_json::json;
use totp_rs::Secret;

use super::{
    CODES, CONFIRM, Owner, SECOND_FACTOR, TOTP, act, assert_refused, present, recovery_codes, start, step_up, superuser,
};

/// Returns the columns that hold the text, in any case or encoding.
fn found(columns: &[Column], needle: &[u8]) -> Vec<String> {
    assert!(needle.len() >= 8, "too short to be found by chance alone");
    let hex: String = needle.iter().map(|byte| format!("{byte:02x}")).collect();
    let spellings = [
        needle.to_vec(),
        needle.to_ascii_lowercase(),
        needle.to_ascii_uppercase(),
        hex.into_bytes(),
        STANDARD.encode(needle).into_bytes(),
        URL_SAFE_NO_PAD.encode(needle).into_bytes(),
    ];
    let holds =
        |value: &Vec<u8>| spellings.iter().any(|spelling| value.windows(spelling.len()).any(|at| at == spelling));
    columns.iter().filter(|column| column.values.iter().any(holds)).map(|column| column.name.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_column_of_any_table_holds_a_seed_a_code_or_a_challenge() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let keyed = node.customer().await.with_header("idempotency-key", "a key");
    let started = keyed.post_nothing(TOTP).await;
    let secret = started.json["secret"].as_str().unwrap().to_owned();
    let app = Authenticator::of(&secret);
    let mut codes = vec![app.code(0)];
    let confirmed = keyed.post(CONFIRM, json!({"code": codes[0]})).await;
    assert_eq!(confirmed.status, 200, "{confirmed:?}");
    let ann = Owner { client: keyed, app, secret: secret.clone(), recovery: recovery_codes(&confirmed) };
    let issued = recovery_codes(&ann.client.post_nothing(CODES).await);

    let login = json!({"email": ann.client.email, "password": PASSWORD});
    let nobody = node.anonymous().with_header("idempotency-key", "another key");
    let login = nobody.post("/v1/auth/login", login).await;
    let challenge = login.json["challenge_token"].as_str().unwrap().to_owned();
    codes.push(ann.code(&node).await);
    let answer = nobody.post(SECOND_FACTOR, json!({"challenge_token": challenge, "code": codes[1]})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    codes.extend(ann.wrong_codes(4));
    for wrong in &codes[2..] {
        assert_refused(&present(&node, &challenge, wrong).await);
    }
    assert_eq!(present(&node, &challenge, &issued[0]).await.status, 200);
    codes.push(ann.code(&node).await);
    assert_eq!(step_up(&ann.client, &codes[6]).await.status, 200);
    let unkeyed = Client { headers: Vec::new(), ..ann.client.clone() };
    assert_eq!(step_up(&unkeyed, &issued[1]).await.status, 200);
    // This enrolment stays pending.
    let (_, pending) = start(&unkeyed).await;
    let lost = Owner::customer(&node).await;
    assert_eq!(act(&admin, lost.client.account, "reset-second-factor").await.status, 200);
    let last = super::log_size(&node).await - 1;
    for list in ["/v1/accounts", "/v1/sessions", "/v1/audit/events"] {
        assert_eq!(admin.seeing(last).get(list).await.status, 200);
    }

    let columns = columns(&superuser(&node.database).await).await;
    let seeds = [&secret, &lost.secret, &pending];
    let mut needles: Vec<Vec<u8>> = Vec::new();
    for seed in seeds {
        needles.push(seed.clone().into_bytes());
        needles.push(Secret::try_from_base32(seed).unwrap().as_bytes().to_vec());
    }
    for code in ann.recovery.iter().chain(&issued).chain(&lost.recovery) {
        needles.push(code.clone().into_bytes());
        needles.push(code.replace('-', "").into_bytes());
    }
    let token = URL_SAFE_NO_PAD.decode(&challenge).unwrap();
    needles.extend([challenge.clone().into_bytes(), token.clone(), token[42..].to_vec(), b"otpauth://".to_vec()]);
    for needle in &needles {
        let found = found(&columns, needle);
        assert!(found.is_empty(), "{} is in {found:?}", String::from_utf8_lossy(needle));
    }
    // Six digits stand in many a time or position by chance: they must not be a value.
    for code in &codes {
        let quoted = format!("\"{code}\"").into_bytes();
        for column in &columns {
            let holds = |value: &Vec<u8>| {
                value == code.as_bytes() || value.windows(quoted.len()).any(|at| at == quoted.as_slice())
            };
            assert!(!column.values.iter().any(holds), "a code is in {}", column.name);
        }
    }
    // The search finds what is there.
    let ids = found(&columns, ann.client.account.to_string().as_bytes());
    for expected in ["log.event.leaf", "vault.credential.account_id", "vault.recovery_code.account_id"] {
        assert!(ids.contains(&expected.to_owned()), "{expected} is not searched: {ids:?}");
    }
    let in_leaves = found(&columns, b"second_factor_enabled");
    assert!(in_leaves.contains(&"log.event.leaf".to_owned()), "{in_leaves:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_and_a_recovery_code_are_bound_to_their_account() {
    // An attacker who writes in the database puts their own seed and codes in somebody else's place.
    let node = Node::start().await;
    let (ann, eve) = (Owner::customer(&node).await, Owner::customer(&node).await);
    let pool = superuser(&node.database).await;
    let moved = "insert into vault.recovery_code select $1, code_hash from vault.recovery_code where account_id = $2";
    sqlx::query(moved).bind(ann.client.account).bind(eve.client.account).execute(&pool).await.unwrap();
    let challenge = ann.challenge(&node).await;
    assert_refused(&present(&node, &challenge, &eve.recovery[0]).await);
    let moved = "update vault.credential set verifier = (
                     select verifier from vault.credential where account_id = $2 and kind = 'totp')
                 where account_id = $1 and kind = 'totp'";
    sqlx::query(moved).bind(ann.client.account).bind(eve.client.account).execute(&pool).await.unwrap();
    let challenge = ann.challenge(&node).await;
    let answer = present(&node, &challenge, &eve.app.code(1)).await;
    assert_eq!(answer.code(), "internal", "what was tampered with is no refusal: {answer:?}");
}
