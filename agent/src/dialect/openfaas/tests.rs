use super::*;

#[test]
fn query_is_decoded_and_its_last_value_counts() {
    let query = Query("namespace=a&since=2024-01-01T00%3A00%3A00%2B01%3A00&namespace=b&x=");
    assert_eq!(query.value("namespace").as_deref(), Some("b"));
    assert_eq!(
        query.value("since").as_deref(),
        Some("2024-01-01T00:00:00+01:00")
    );
    assert_eq!(query.value("x"), None);
    let check = |query, expected| assert_eq!(Query(query).flag("usage").ok(), expected);
    check("usage=1", Some(true));
    check("usage=false", Some(false));
    check("", Some(false));
    check("usage=perhaps", None);
}

#[test]
fn name_may_carry_its_namespace_or_have_it_beside() {
    let check = |name: &str, namespace: Option<&str>, expected: &str| {
        let namespace = namespace.map(|name| name.parse().expect("valid"));
        let name = function_name(name, namespace).expect("valid");
        assert_eq!(name.qualified(), expected);
    };
    check("hello", None, "hello.openfaas-fn");
    check("hello.openfaas-fn", None, "hello.openfaas-fn");
    check("hello", Some("shop"), "hello.shop");
    check("hello.shop", Some("shop"), "hello.shop");
}

#[test]
fn secret_is_text_or_base64() {
    let check = |body: &str, expected: Option<&[u8]>| {
        let request: SecretRequest = serde_json::from_str(body).expect("JSON");
        assert_eq!(request.value().ok().as_deref(), expected, "{body}");
    };
    check(r#"{"name":"a","value":"x y"}"#, Some(b"x y"));
    check(r#"{"name":"a","rawValue":"AAE="}"#, Some(b"\0\x01"));
    check(r#"{"name":"a","rawValue":"!"}"#, None);
    check(r#"{"name":"a"}"#, None);
}

#[test]
fn unknown_fields_are_ignored_and_null_is_absent() {
    let body = r#"{"functionName":"f","namespace":null,"more":1}"#;
    let removal: Removal = serde_json::from_str(body).expect("JSON");
    assert_eq!(
        (removal.function_name.as_str(), removal.namespace),
        ("f", None)
    );
}
