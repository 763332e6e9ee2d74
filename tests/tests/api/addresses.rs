//! E-mail addresses and names: one mailbox is one account, with any keyboard, browser or script; and nobody registers
//! what looks like somebody else.

use fulexo_tests::{Answer, Client, Node, PASSWORD};
use hyper::Method;
use serde_json::json;

async fn register(client: &Client, email: &str) -> Answer {
    client.post("/v1/auth/register", json!({"email": email, "password": PASSWORD})).await
}

#[track_caller]
fn assert_refused(answer: &Answer, pointer: &str) {
    let found = &answer.json["errors"][0]["pointer"];
    assert_eq!((answer.status, answer.code(), found), (400, "invalid_input", &json!(pointer)), "{answer:?}");
}

/// D5.
#[tokio::test(flavor = "multi_thread")]
async fn a_mailbox_has_one_account_however_its_address_is_written() {
    let node = Node::start().await;
    let anonymous = node.anonymous();
    let mailboxes: [&[&str]; 6] = [
        &["a@exämple.com", "a@xn--exmple-cua.com", "A@XN--EXMPLE-CUA.COM", "a@exa\u{308}mple.com", "a@EXÄMPLE.com"],
        &["b@example.com", "b@ｅｘａｍｐｌｅ.com", "B@example。com", "b@EXAMPLE.COM"],
        &["josé@example.com", "jose\u{301}@example.com", "JOSÉ@example.com"],
        &["οδος@example.com", "ΟΔΟΣ@example.com", "οδοσ@example.com"],
        &["한@example.com", "\u{1112}\u{1161}\u{11ab}@example.com"],
        &["test@नमस्ते.भारत", "TEST@नमस्ते.भारत", "test@xn--h2bhs4b8d8a.xn--h2brj9c"],
    ];
    for addresses in mailboxes {
        let first = register(&anonymous, addresses[0]).await;
        assert_eq!(first.status, 201, "{}: {first:?}", addresses[0]);
        for address in addresses {
            let second = register(&anonymous, address).await;
            assert_eq!((second.status, second.code()), (409, "email_taken"), "{address}: {second:?}");
            let body = json!({"email": address, "password": PASSWORD});
            let login = anonymous.post("/v1/auth/login", body).await;
            assert_eq!(login.status, 200, "{address}: {login:?}");
        }
    }
}

/// D6.
#[tokio::test(flavor = "multi_thread")]
async fn every_label_that_idna_accepts_is_one_of_an_address() {
    let node = Node::start().await;
    let domains = [
        "नमस्ते.भारत",
        "डाटा.भारत",
        "இலங்கை.இலங்கை",
        "বাংলা.ভারত",
        "ශ්\u{200d}රී.ලංකා",
        "例子.广告",
        "faß.de",
        "r1---sn.example.com",
    ];
    for domain in domains {
        let answer = register(&node.anonymous(), &format!("test@{domain}")).await;
        assert_eq!(answer.status, 201, "{domain}: {answer:?}");
    }
}

/// D7.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_no_mail_can_be_sent_to_is_refused() {
    let node = Node::start().await;
    for address in [
        "a..b@example.com",
        ".a@example.com",
        "a.@example.com",
        "a@1.2.3.4",
        "a@[1.2.3.4]",
        "a@example.123",
        "a@xn--zzzzzz99999.com",
        "a@exam_ple.com",
        "a@-example.com",
        "a@example..com",
        "a@example.com.",
        "\"a b\"@example.com",
    ] {
        assert_refused(&register(&node.anonymous(), address).await, "/email");
    }
}

/// D8.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_registers_what_looks_like_somebody_elses_address() {
    let node = Node::start().await;
    for address in [
        "\u{212a}im@example.com",
        "stra\u{1e9e}e@example.com",
        "\u{2126}mega@example.com",
        "ﬁsh@example.com",
        "ｋim@example.com",
        "mar\u{17f}@example.com",
    ] {
        assert_refused(&register(&node.anonymous(), address).await, "/email");
    }
    assert_eq!(register(&node.anonymous(), "kim@example.com").await.status, 201);
}

/// D9.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_seen_is_part_of_no_address_and_no_name() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let rename = async |name: &str| {
        let body = json!({"display_name": name}).to_string();
        ann.send(Method::PATCH, "/v1/me", Some("application/json"), &body).await
    };
    let unseen = ['\u{200b}', '\u{ad}', '\u{202e}', '\u{feff}', '\u{3164}', '\u{2066}', '\u{180f}', '\u{e0041}'];
    for c in unseen {
        assert_refused(&register(&node.anonymous(), &format!("an{c}n@example.com")).await, "/email");
        assert_refused(&register(&node.anonymous(), &format!("ann@exam{c}ple.com")).await, "/email");
        for name in [c.to_string(), format!("An{c}n"), format!("{c} {c}")] {
            assert_refused(&rename(&name).await, "/display_name");
        }
    }
    assert_refused(&rename("An\u{2028}n").await, "/display_name");
    let body = json!({"email": "anna@example.com", "password": PASSWORD, "display_name": "\u{2800}"});
    assert_refused(&node.anonymous().post("/v1/auth/register", body).await, "/display_name");
    for (typed, kept) in [("Jose\u{301}\u{a0}Müller", "José Müller"), ("O’Neil 🦊", "O’Neil 🦊"), (" Zoë ", "Zoë")]
    {
        let answer = rename(typed).await;
        assert_eq!((answer.status, &answer.json["display_name"]), (200, &json!(kept)), "{answer:?}");
    }
}
