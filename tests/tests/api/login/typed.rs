//! Passwords as keyboards and systems give them: the same characters are the same password.

use fulexo_tests::Node;
use serde_json::json;

use super::log_in;

/// D3.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_opens_its_account_however_its_characters_were_typed() {
    let node = Node::start().await;
    let anonymous = node.anonymous();
    let composed = "Zürich-é7-Käse Brücke! 한국";
    let others = [
        "Zu\u{308}rich-e\u{301}7-Ka\u{308}se Bru\u{308}cke! 한국",
        "Zürich-é7-Käse\u{a0}Brücke!\u{3000}한국",
        "Zürich-é7-Käse\u{2009}Brücke! \u{1112}\u{1161}\u{11ab}\u{1100}\u{116e}\u{11a8}",
    ];
    for (number, (registered, typed)) in
        others.map(|other| [(composed, other), (other, composed)]).iter().flatten().enumerate()
    {
        let email = format!("ann{number}@example.com");
        let answer = anonymous.post("/v1/auth/register", json!({"email": email, "password": registered})).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        for password in [registered, typed] {
            let answer = log_in(&anonymous, &email, password).await;
            assert_eq!(answer.status, 200, "{password:?}: {answer:?}");
        }
        // Another character is another password, and so is another case.
        let wrong = registered.replace('7', "８");
        assert_eq!(log_in(&anonymous, &email, &wrong).await.status, 401);
    }
}

/// D3.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_changed_stepped_up_with_and_not_repeated_in_any_of_its_forms() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let (composed, decomposed) = ("kestrel-Över9thefen", "kestrel-O\u{308}ver9thefen");
    let change = async |current: &str, new: &str| {
        ann.post("/v1/me/password", json!({"current_password": current, "new_password": new})).await
    };
    let answer = change(fulexo_tests::PASSWORD, composed).await;
    assert_eq!(answer.status, 204, "{answer:?}");
    let step_up = ann.post("/v1/auth/step-up", json!({"password": decomposed})).await;
    assert_eq!(step_up.status, 200, "{step_up:?}");
    let again = change(composed, decomposed).await;
    assert_eq!((again.status, again.code()), (400, "invalid_input"), "{again:?}");
    assert!(again.text.contains("last five"), "{again:?}");
}

/// D3.
#[tokio::test(flavor = "multi_thread")]
async fn what_no_keyboard_types_is_refused_as_a_password_and_is_a_wrong_one() {
    let node = Node::start().await;
    let anonymous = node.anonymous();
    for c in ['\u{0}', '\u{7}', '\u{200b}', '\u{e000}', '\u{feff}'] {
        let password = format!("correct-Horse7{c}battery");
        let body = json!({"email": "bob@example.com", "password": password});
        let answer = anonymous.post("/v1/auth/register", body).await;
        assert_eq!((answer.status, answer.code()), (400, "invalid_input"), "{c:?}: {answer:?}");
        assert!(answer.text.contains("invisible characters"), "{answer:?}");
    }
    let ann = node.customer().await;
    let zero_width = format!("{}\u{200b}", fulexo_tests::PASSWORD);
    assert_eq!(log_in(&anonymous, &ann.email, &zero_width).await.status, 401);
}
