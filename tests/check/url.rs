//! What becomes of one URL.

use serde_json::Value;

use crate::files::*;

#[test]
fn a_url_is_told_its_way_or_why_there_is_none() {
    let files = Files::new();
    let (mp, sup, own) = (ROLE, ROLE + 1, ROLE + 2);
    let (mutual, server) = ("/CCM_Proxy_MutualAuth", "/CCM_Proxy_ServerAuth");
    // Target, method, status and reason (or none), words of the cause.
    type Row = (String, &'static str, Option<(u16, &'static str)>, &'static str);
    let rows: Vec<Row> = vec![
        (
            format!("{mutual}/{mp}/SMS_MP/.sms_aut?MPLIST"),
            "GET",
            None,
            "http://127.0.0.1:9/SMS_MP/.sms_aut?MPLIST",
        ),
        (
            format!("https://{NAME}:{}{mutual}/{mp}/CCM_Incoming/{{A}}", files.client),
            "BITS_POST",
            None,
            "/CCM_Incoming/{A}",
        ),
        (
            format!("{mutual}/{sup}/ClientWebService/x.asmx"),
            "POST",
            None,
            "https://wsus.corp:8531/ClientWebService/x.asmx",
        ),
        (format!("{mutual}/{own}/reports/upload/a%20b"), "PUT", None, "http://127.0.0.1:9/in/a%20b"),
        (format!("{mutual}/ServiceMetadata"), "GET", None, "by itself"),
        (
            format!("{mutual}/{own}/reports/upload"),
            "POST",
            Some((405, "CMGService_Method_Not_Allowed")),
            "GET, PUT",
        ),
        (
            format!("{mutual}/{mp}/SMS_MP"),
            "TRACE",
            Some((405, "CMGService_Method_Not_Allowed")),
            "any method but",
        ),
        (
            format!("{mutual}/{mp}/AdminService/v1.0"),
            "GET",
            Some((404, "CMGService_Unknown_Url")),
            "it has: CCM_System",
        ),
        (
            format!("{mutual}/{mp}/SMS_MP_TokenAuth"),
            "GET",
            Some((404, "CMGService_Unknown_Url")),
            "not to this family",
        ),
        (format!("{mutual}/7/SMS_MP"), "GET", Some((404, "CMGService_Unknown_Url")), "no role 7"),
        (
            "/elsewhere".to_owned(),
            "GET",
            Some((404, "CMGService_Unknown_Url")),
            "begins with /CCM_Proxy_MutualAuth/",
        ),
        (
            format!("{mutual}/{mp}/SMS_MP/../CCM_System"),
            "GET",
            Some((400, "CMGService_Bad_Request")),
            "canonical",
        ),
        (
            format!("{server}/{mp}/CCM_Client"),
            "GET",
            Some((401, "CMGService_Invalid_Token")),
            "no token is taken",
        ),
        (format!("{server}/ServiceMetadata"), "GET", None, "by itself"),
    ];
    for (url, method, refusal, words) in rows {
        let options = ["--files-only", "--url", &url, "--method", method];
        let (code, answer) = files.check(&[GATEWAY, CONNECTOR], &options);
        let asked = &answer["url"];
        assert_eq!(code, 0, "a question is no mistake: {answer:#}");
        assert_eq!(asked["taken"], refusal.is_none(), "{url}: {asked:#}");
        let said =
            refusal.map_or((Value::Null, Value::Null), |(status, reason)| (status.into(), reason.into()));
        assert_eq!((asked["status"].clone(), asked["reason"].clone()), said, "{url}: {asked:#}");
        assert!(asked["why"].as_str().unwrap().contains(words), "{url}: {asked:#}");
    }
    let url = format!("{mutual}/{own}/reports/upload");
    let (_, answer) = files.check(&[GATEWAY, SITE], &["--files-only", "--url", &url]);
    let facts = &answer["url"]["facts"];
    let rows = [
        ("family", "CCM_Proxy_MutualAuth (a client certificate that the site trusts)"),
        ("site", "PS1 (serial 1)"),
        ("role", "the site's own endpoints (endpoint[1])"),
        ("endpoint", "reports/upload"),
        ("families", "mutual_auth, server_auth"),
        ("methods", "GET, PUT"),
        ("request limit", "1000 octets of body"),
        ("internal URL", "http://127.0.0.1:9/in"),
        ("identity told", "yes, to the origin"),
    ];
    for (name, value) in rows {
        assert_eq!(facts[name], value, "{facts:#}");
    }
    // A role that the gateway does not let the site publish is nobody's.
    files.edit(GATEWAY, "code = \"PS1\"\nrole_ids", "code = \"PS1\"\nrole_ids = [\"5\"]\n#");
    let (_, answer) = files.check(&[GATEWAY, SITE], &["--files-only", "--url", &url]);
    assert!(answer["url"]["why"].as_str().unwrap().contains("not among the role_ids"), "{answer:#}");
    assert_eq!(answer["url"]["status"], 404);
}

#[test]
fn a_url_under_another_name_or_port_is_remarked() {
    let files = Files::new();
    let path = format!("/CCM_Proxy_MutualAuth/{ROLE}/SMS_MP");
    for (host, words) in [("other.test", "is not gateway.name"), (NAME, "port 443 is none")] {
        let url = format!("https://{host}{path}");
        let (_, answer) = files.check(&[GATEWAY, SITE], &["--files-only", "--url", &url]);
        assert!(answer["url"]["facts"]["host"].as_str().unwrap().contains(words), "{answer:#}");
    }
}
