//! The replacement of a signing key that leaked: what it signed is refused at every node, and clients go on.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use fulexo_commands::access_token::{KeyRing, SigningKey, TokenGrant, TokenSettings};
use fulexo_dev_servers::DataDir;
use fulexo_domain::authentication::AuthenticationMethod;
use fulexo_domain::values::{AccountId, SessionId};
use fulexo_node::clock;
use fulexo_tests::{Client, Database, Dice, Ended, Node, Program, operator, own_dir, rsa_key};
use serde_json::{Value, json};
use tokio::time::sleep;

const REPLACE: [&str; 4] = ["keys", "rotate", "signing", "--compromised"];

/// Two nodes on two machines, each with a file of keys, or on one machine.
struct TwoNodes {
    nodes: [Node; 2],
    files: [PathBuf; 2],
    env: BTreeMap<String, String>,
    /// The keys that leak: the one that signs, and one that an operator put behind it.
    leaked: [String; 2],
    _dir: DataDir,
}

impl TwoNodes {
    async fn start(is_one_machine: bool) -> Self {
        let (database, dir) = (Arc::new(Database::create().await), own_dir());
        let leaked = [rsa_key(), rsa_key()];
        let text = format!("the keys of the tests\n{}{}", leaked[0], leaked[1]);
        let files = ["here.pem", if is_one_machine { "here.pem" } else { "there.pem" }];
        let files = files.map(|name| dir.path().join(name));
        let env = |file: &PathBuf| {
            let mut env = database.env();
            env.remove("JWT_SECRET");
            env.insert("JWT_PRIVATE_KEY_FILE".into(), file.display().to_string());
            env
        };
        files.iter().for_each(|file| fs::write(file, &text).unwrap());
        let nodes = [Node::with(&database, env(&files[0])).await, Node::with(&database, env(&files[1])).await];
        let env = env(&files[0]);
        Self { nodes, files, env, leaked, _dir: dir }
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        tokio::task::block_in_place(|| Program::run(arguments, &self.env))
    }

    /// The status of a request with this token, at each node.
    async fn statuses(&self, token: &str) -> [u16; 2] {
        let [here, there] = &self.nodes;
        let ask = async |node: &Node| {
            let client = Client { access_token: Some(token.to_owned()), ..node.anonymous() };
            client.get("/v1/me").await.status
        };
        [ask(here).await, ask(there).await]
    }

    /// A token for the session of this client that a thief of the key makes.
    fn forged(&self, pem: &str, client: &Client) -> String {
        let issuer = self.nodes[0].app().commands.keys().issuer().to_owned();
        let settings = TokenSettings { issuer, audience: "fulexo".to_owned(), lifetime: TimeDelta::hours(1) };
        let keys = KeyRing::new(vec![SigningKey::rs256(pem).unwrap()], settings).unwrap();
        let grant = TokenGrant {
            account: AccountId(client.account),
            session: SessionId(client.session),
            authenticated_at: clock::now(),
            methods: vec![AuthenticationMethod::Password],
            step_up_required: false,
            roles: Vec::new(),
            position: 0,
            epoch: self.nodes[0].app().gate.epoch(),
            expires_at: clock::now() + TimeDelta::hours(1),
        };
        keys.sign(grant, operator().new_id(), clock::now()).unwrap()
    }

    /// Tells that no node has another key than the one that signs, and returns it.
    async fn only_key(&self) -> String {
        let answer = self.nodes[1].anonymous().get("/.well-known/jwks.json").await;
        let published = answer.json["keys"].as_array().unwrap();
        assert_eq!(published.len(), 1, "{published:?}");
        for node in &self.nodes {
            let keys = node.app().commands.keys();
            assert_eq!(keys.key_ids(), [keys.signs_with()]);
        }
        published[0]["kid"].as_str().unwrap().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_a_leaked_key_are_refused_at_every_node_and_clients_go_on_with_their_refresh_tokens() {
    let two = TwoNodes::start(true).await;
    let ann = two.nodes[0].customer().await;
    let token = ann.access_token.clone().unwrap();
    assert_eq!(two.statuses(&token).await, [200, 200]);
    for pem in &two.leaked {
        assert_eq!(two.statuses(&two.forged(pem, &ann)).await, [200, 200], "a thief makes tokens");
    }
    // Known to the nodes, and not used yet.
    let unused = two.leaked.each_ref().map(|pem| two.forged(pem, &ann));
    let before = two.nodes[0].app().commands.keys().signs_with();

    let mut dice = Dice(23);
    for _ in 0..3 {
        let mut program = Program::start(&REPLACE, &two.env);
        sleep(Duration::from_millis(dice.roll(1_500))).await;
        program.kill();
    }
    let ended = two.run(&[&REPLACE[..], &["--json"]].concat());
    assert_eq!(ended.status.code(), Some(0), "{}", ended.errors);
    let replaced: Value = serde_json::from_str(&ended.said).unwrap();
    assert_eq!(replaced["verifying"], json!([]));
    let new = two.only_key().await;
    assert_eq!(replaced["in_use"], json!(new));
    assert_ne!(new, before);
    for refused in unused.iter().chain([&token, &two.forged(&two.leaked[0], &ann), &two.forged(&two.leaked[1], &ann)]) {
        assert_eq!(two.statuses(refused).await, [401, 401]);
    }
    let refresh = json!({"refresh_token": ann.refresh_token});
    let refreshed = two.nodes[1].anonymous().post("/v1/auth/refresh", refresh).await;
    assert_eq!(refreshed.status, 200, "{refreshed:?}");
    assert_eq!(two.statuses(refreshed.json["access_token"].as_str().unwrap()).await, [200, 200]);

    let text = fs::read_to_string(&two.files[0]).unwrap();
    assert!(text.starts_with("the keys of the tests\n"), "what else is in the file stays");
    assert_eq!(text.matches("-----BEGIN PRIVATE KEY-----").count(), 1);
    let listed = two.run(&["keys", "list", "--json"]);
    let listed: Value = serde_json::from_str(&listed.said).unwrap();
    let states = |id: &str| {
        let is_its = |key: &&Value| key["id"] == id;
        listed.as_array().unwrap().iter().find(is_its).unwrap()["state"].as_str().unwrap().to_owned()
    };
    let spare = SigningKey::rs256(&two.leaked[1]).unwrap();
    assert_eq!([states(&before), states(&new), states(spare.id())], ["destroyed", "in use", "refused"]);

    let again = two.run(&REPLACE);
    assert_eq!(again.status.code(), Some(0), "{}", again.errors);
    assert_ne!(two.only_key().await, new, "a replacement that ended is not continued: the new key may leak, too");
    let rotated = two.run(&["keys", "rotate", "signing", "--wait", "1", "--finish", "--compromised"]);
    assert_eq!(rotated.status.code(), Some(2), "{}", rotated.errors);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_file_still_has_a_leaked_key_refuses_it() {
    let two = TwoNodes::start(false).await;
    let ann = two.nodes[0].customer().await;
    let stopped = two.run(&[&REPLACE[..], &["--wait", "1"]].concat());
    assert_eq!(stopped.status.code(), Some(1), "{}", stopped.said);
    assert!(stopped.errors.contains("do not have the key"), "{}", stopped.errors);
    fs::copy(&two.files[0], &two.files[1]).unwrap();
    let drawn = fs::read_to_string(&two.files[0]).unwrap();
    let ended = two.run(&REPLACE);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.errors);
    assert!(ended.errors.contains("continuing with the key"), "{}", ended.errors);
    assert_eq!(fs::read_to_string(&two.files[1]).unwrap(), drawn, "nobody touches the other machine's file");
    two.only_key().await;
    for pem in &two.leaked {
        assert_eq!(two.statuses(&two.forged(pem, &ann)).await, [401, 401]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_containment_replaces_keys_on_every_node_and_its_timeline_has_them() {
    let two = TwoNodes::start(true).await;
    let ann = two.nodes[0].customer().await;
    let token = ann.access_token.clone().unwrap();
    assert_eq!(two.statuses(&token).await, [200, 200]);
    let text = two.files[0].with_extension("txt");
    fs::write(&text, "a key in a paste").unwrap();
    let opened = two.run(&["incident", "open", "critical", "--text", text.to_str().unwrap(), "--json"]);
    let opened: Value = serde_json::from_str(&opened.said).unwrap();
    let id = opened["incident"].as_str().unwrap();
    let contain = ["incident", "contain", id, "--reason", "a leak", "--rotate", "signing", "--json"];
    let contained = two.run(&contain);
    assert_eq!(contained.status.code(), Some(0), "{}", contained.errors);
    let contained: Value = serde_json::from_str(&contained.said).unwrap();
    let measure = &contained["measures"][0];
    assert_eq!((&measure["kind"], &measure["count"]), (&json!("rotate_keys"), &json!(1)), "{contained}");
    assert!(measure["enforced_on"].as_u64() >= Some(2) && measure["down"] == json!([]), "{contained}");
    two.only_key().await;
    assert_eq!(two.statuses(&token).await, [401, 401]);
    let shown = two.run(&["incident", "show", id, "--json"]);
    let shown: Value = serde_json::from_str(&shown.said).unwrap();
    let types: Vec<&str> = shown["timeline"].as_array().unwrap().iter().filter_map(|it| it["type"].as_str()).collect();
    let expected =
        ["incident.opened", "incident.containment_started", "key.rotated", "key.destroyed", "incident.contained"];
    assert_eq!(types, expected);

    // The key that wraps is in a variable, to which nothing can be added.
    let failed = two.run(&["incident", "contain", id, "--reason", "a leak", "--rotate", "encryption"]);
    assert_eq!(failed.status.code(), Some(1), "{}", failed.said);
    assert!(failed.errors.contains("there is no new key") && failed.errors.contains("Run the command again"));
    let wrong = two.run(&["incident", "contain", id, "--reason", "a leak", "--rotate", "log"]);
    assert_eq!(wrong.status.code(), Some(2), "{}", wrong.errors);
}
