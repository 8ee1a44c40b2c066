//! `cmg import` as a user meets it: tables in, settings out, and what is said about each row.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use cmg::mapping::{Families, RoleKind};
use cmg::settings::{OriginTrust, SiteSettings};
use tempfile::TempDir;

const HEADER: &str = "ExternalUrl,EndpointName,InternalUrl\n";
const ID: u64 = 72_057_594_037_927_941;

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn import(folder: &Path, table: &[u8], options: &[&str]) -> Output {
    fs::write(folder.join("routings.csv"), table).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_cmg"));
    command.arg("import").arg("routings.csv").args(options).current_dir(folder).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The settings that come of these rows, and what was said.
fn settings(rows: &str, options: &[&str]) -> (String, SiteSettings, String) {
    let folder = folder();
    let output = import(folder.path(), format!("{HEADER}{rows}").as_bytes(), options);
    assert!(output.status.success(), "{}", said(&output));
    let text = fs::read_to_string(folder.path().join("site.toml")).unwrap();
    let settings =
        SiteSettings::parse(&text, "site.toml").unwrap_or_else(|errors| panic!("{errors}\n{text}"));
    (text, settings, said(&output))
}

/// Rows for endpoints of one role, in one family.
fn rows(family: &str, id: u64, base: &str, endpoints: &[&str]) -> String {
    let row = |name: &&str| {
        format!("https://cmg.example.org/CCM_Proxy_{family}/{id}/{name},{name},{base}/{name}\n")
    };
    endpoints.iter().map(row).collect()
}

const CERTIFICATE: [&str; 6] =
    ["CCM_System", "CCM_System_AltAuth", "SMS_MP", "SMS_MP_AltAuth", "CCM_Incoming", "BGB"];
const TOKEN: [&str; 2] = ["CCM_System_TokenAuth", "SMS_MP_TokenAuth"];
const BOTH: [&str; 3] = ["CCM_Client", "CCM_STS", "CMUserService"];

fn whole_management_point(base: &str) -> String {
    [
        rows("MutualAuth", ID, base, &CERTIFICATE),
        rows("MutualAuth", ID, base, &BOTH),
        rows("ServerAuth", ID, base, &BOTH),
        rows("ServerAuth", ID, base, &TOKEN),
    ]
    .concat()
}

/// Path, families and internal URL of everything that the settings publish under a role id.
fn published(settings: &SiteSettings, id: u64) -> Vec<(String, Families, String)> {
    let role = settings.roles.iter().find(|role| role.id == id).expect("the role");
    let mapped = role.endpoints.iter().map(|mapped| {
        let path = mapped.endpoint.path.as_str().to_owned();
        let own = if mapped.replaces_path { String::new() } else { format!("/{path}") };
        let address = &settings.origins[settings.groups[mapped.group].origins[0]].address;
        let url = format!("{}://{}{}{own}", address.scheme.as_str(), address.authority(), mapped.prefix);
        (path, mapped.endpoint.families, url)
    });
    mapped.collect()
}

#[test]
fn a_whole_management_point_is_one_section() {
    let (text, settings, said) = settings(&whole_management_point("http://mp.corp"), &["--site", "PS1"]);
    assert_eq!(settings.roles.len(), 1);
    assert_eq!((settings.roles[0].id, settings.roles[0].kind), (ID, RoleKind::ManagementPoint));
    assert_eq!(settings.roles[0].endpoints.len(), 11);
    assert!(!text.contains("[[endpoint]]") && !text.contains("exclude"), "{text}");
    assert!(said.contains("14 of 14 rows taken over into 1 roles, 0 left out"), "{said}");
}

#[test]
fn nothing_is_published_that_the_table_did_not_have() {
    let table = [
        rows("MutualAuth", ID, "http://mp.corp:8080/below", &["CCM_System", "SMS_MP", "CCM_Client"]),
        rows("ServerAuth", ID, "http://mp.corp:8080/below", &["CCM_STS"]),
    ]
    .concat();
    let (text, settings, _) = settings(&table, &["--site", "PS1"]);
    let mut found = published(&settings, ID);
    found.sort_by(|one, other| one.0.cmp(&other.0));
    let expected = [
        ("CCM_Client", Families::MUTUAL_AUTH),
        ("CCM_STS", Families::SERVER_AUTH),
        ("CCM_System", Families::MUTUAL_AUTH),
        ("SMS_MP", Families::MUTUAL_AUTH),
    ]
    .map(|(name, families)| (name.to_owned(), families, format!("http://mp.corp:8080/below/{name}")));
    assert_eq!(found, expected, "{text}");
    assert_eq!(settings.roles[0].kind, RoleKind::ManagementPoint);
}

#[test]
fn what_lies_elsewhere_or_is_not_standard_gets_a_section_of_its_own() {
    let table = [
        rows("MutualAuth", ID, "http://mp.corp", &["CCM_System", "SMS_MP", "Reports/Upload"]),
        rows("MutualAuth", ID, "http://other.corp", &["BGB"]),
        rows("MutualAuth", 8, "http://app.corp/v1", &["Api"]),
        rows("ServerAuth", 8, "http://app.corp/v1", &["Api"]),
        format!("/ccm_proxy_mutualauth/{},AdminService,http://sms.corp/AdminService\n", u64::MAX),
    ]
    .concat();
    let (text, settings, said) = settings(&table, &["--site", "PS1"]);
    let url = |id, name: &str| {
        let found = published(&settings, id).into_iter().find(|(path, ..)| path == name);
        found.map(|(_, families, url)| (families, url)).unwrap_or_else(|| panic!("{name}\n{text}"))
    };
    let with_certificate = |url: &str| (Families::MUTUAL_AUTH, url.to_owned());
    assert_eq!(url(ID, "BGB"), with_certificate("http://other.corp/BGB"));
    assert_eq!(url(ID, "SMS_MP"), with_certificate("http://mp.corp/SMS_MP"));
    assert_eq!(url(ID, "Reports/Upload"), with_certificate("http://mp.corp/Reports/Upload"));
    assert_eq!(url(8, "Api"), (Families::BOTH, "http://app.corp/v1/Api".to_owned()));
    assert_eq!(url(u64::MAX, "AdminService"), with_certificate("http://sms.corp/AdminService"));
    assert!(said.contains("7 of 7 rows taken over into 3 roles"), "{said}");
}

#[test]
fn a_software_update_point_keeps_what_is_only_published_on_request() {
    let names = ["ClientWebService", "SimpleAuthWebService", "ReportingWebService", "Content"];
    let both = |family| rows(family, 9, "http://sup.corp:8530", &names);
    let (text, settings, _) = settings(&(both("MutualAuth") + &both("ServerAuth")), &["--site", "PS1"]);
    assert_eq!(settings.roles[0].kind, RoleKind::SoftwareUpdatePoint);
    let paths: Vec<String> = published(&settings, 9).into_iter().map(|(path, ..)| path).collect();
    assert_eq!(paths.len(), 4, "{text}");
    assert!(names.iter().all(|name| paths.iter().any(|path| path == name)), "{text}");
}

#[test]
fn every_row_that_is_left_out_is_told_by_line() {
    let table = format!(
        "{}{}",
        rows("MutualAuth", ID, "http://mp.corp", &["SMS_MP"]), // line 2
        "https://cmg.example.org/elsewhere/1/x,x,http://mp.corp/x
https://cmg.example.org/CCM_Proxy_MutualAuth/abc/x,x,http://mp.corp/x
https://cmg.example.org/CCM_Proxy_MutualAuth/18446744073709551616/x,x,http://mp.corp/x
https://cmg.example.org/CCM_Proxy_MutualAuth/ServiceMetadata,ServiceMetadata,http://mp.corp/x
https://cmg.example.org/CCM_Proxy_MutualAuth/8/a/../b,b,http://mp.corp/x
https://cmg.example.org/CCM_Proxy_MutualAuth/8/x,x,ftp://mp.corp/x
https://cmg.example.org/CCM_Proxy_MutualAuth/8/x,x,
https://cmg.example.org/CCM_Proxy_MutualAuth/8/CCM_System_WindowsAuth,x,http://mp.corp/CCM_System_WindowsAuth
https://cmg.example.org/CCM_Proxy_ServerAuth/8/CCM_System,x,http://mp.corp/CCM_System
https://cmg.example.org/CCM_Proxy_MutualAuth/72057594037927941/sms_mp,x,http://mp.corp/SMS_MP
https://cmg.example.org/CCM_Proxy_MutualAuth/72057594037927941/sms_mp,x,http://other.corp/SMS_MP
"
    );
    let (_, settings, said) = settings(&table, &["--site", "PS1"]);
    let rows = [
        (3, "elsewhere"),
        (4, "role id"),
        (5, "2^64"),
        (6, "by itself"),
        (7, "canonical"),
        (8, "ftp://mp.corp/x"),
        (9, "internal URL"),
        (10, "NTLM"),
        (11, "certificate only"),
        (12, "line 2"),
        (13, "line 2"),
    ];
    for (line, part) in rows {
        let place = format!("routings.csv:{line}: found ");
        assert!(
            said.lines().any(|told| told.starts_with(&place) && told.contains(part)),
            "{place}{part}\n{said}"
        );
    }
    assert!(said.contains("1 of 12 rows taken over into 1 roles, 11 left out"), "{said}");
    assert_eq!(published(&settings, ID).len(), 1);
}

#[test]
fn what_the_table_does_not_say_is_marked_or_given() {
    let table = rows("MutualAuth", ID, "https://mp.corp", &["SMS_MP"]);
    let (text, found, said) = settings(&table, &[]);
    assert_eq!(text.matches("# TO COMPLETE:").count(), 3, "{text}");
    assert!(said.contains("3 lines to complete in site.toml"), "{said}");
    assert!(matches!(found.origins[0].trust, OriginTrust::Ca(_)));

    let thumbprint = "ab".repeat(32);
    let options =
        ["--site", "XY9", "--serial", "7", "--thumbprint", &thumbprint, "--client-ca", "routings.csv"];
    let (text, found, _) = settings(&table, &options);
    assert!(!text.contains("TO COMPLETE"), "{text}");
    assert_eq!((found.code.as_str(), found.serial), ("XY9", 7));
    assert_eq!(found.origins[0].trust, OriginTrust::Thumbprint([0xAB; 32]));
    assert!(found.trust.roots[0].is_absolute() && found.trust.roots[0].ends_with("routings.csv"));

    let (_, found, _) = settings(&table, &["--site", "PS1", "--ca", "routings.csv"]);
    assert!(matches!(&found.origins[0].trust, OriginTrust::Ca(file) if file.is_absolute()));
}

#[test]
fn tables_of_other_tools_are_read() {
    let rows = whole_management_point("http://mp.corp");
    let table = format!("{HEADER}{rows}").replace('\n', "\r\n");
    let quoted = |text: &str| {
        text.lines().map(|line| format!("\"{}\"\n", line.replace(',', "\",\""))).collect::<String>()
    };
    let wide: Vec<u8> = table.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let variants = [
        [b"\xEF\xBB\xBF", table.as_bytes()].concat(),
        [&[0xFF, 0xFE], wide.as_slice()].concat(),
        table.replace(',', ";").into_bytes(),
        table.replace(',', "\t").into_bytes(),
        rows.clone().into_bytes(),
        format!("#TYPE x\n{}", quoted(&table)).into_bytes(),
    ];
    for (number, table) in variants.iter().enumerate() {
        let folder = folder();
        let output = import(folder.path(), table, &["--site", "PS1", "--out", "-"]);
        assert!(output.status.success(), "{number}: {}", said(&output));
        let settings = SiteSettings::parse(&String::from_utf8(output.stdout).unwrap(), "-").unwrap();
        assert_eq!(settings.roles[0].endpoints.len(), 11, "{number}");
        assert!(!folder.path().join("site.toml").exists());
    }
}

#[test]
fn a_file_that_is_there_is_only_written_over_when_forced() {
    let folder = folder();
    let table = format!("{HEADER}{}", rows("MutualAuth", ID, "http://mp.corp", &["SMS_MP"]));
    fs::write(folder.path().join("site.toml"), "mine").unwrap();
    let output = import(folder.path(), table.as_bytes(), &["--site", "PS1"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("--force"), "{}", said(&output));
    assert_eq!(fs::read_to_string(folder.path().join("site.toml")).unwrap(), "mine");
    assert!(import(folder.path(), table.as_bytes(), &["--site", "PS1", "--force"]).status.success());
    assert_ne!(fs::read_to_string(folder.path().join("site.toml")).unwrap(), "mine");
}

#[test]
fn a_table_of_which_nothing_is_left_writes_nothing() {
    let rows: [(&[u8], i32, &str); 6] = [
        (b"", 2, "routings.csv:1"),
        (b"ExternalUrl,InternalUrl\n", 2, "no rows"),
        (b"ExternalUrl,EndpointName\na,b\n", 2, "InternalUrl"),
        (b"a,b,c\n", 1, "none of 1 rows"),
        (b"x,\xFF\xFE\n", 2, "UTF-8"),
        (b"\x00\x01\x02", 1, "none of 1 rows"),
    ];
    for (table, code, part) in rows {
        let folder = folder();
        let output = import(folder.path(), table, &["--site", "PS1"]);
        assert_eq!(output.status.code(), Some(code), "{}", said(&output));
        assert!(said(&output).contains(part), "{part}: {}", said(&output));
        assert!(!folder.path().join("site.toml").exists());
    }
}

#[test]
fn roles_beyond_what_a_site_may_have_are_left_out_and_told() {
    let folder = folder();
    let many: String =
        (0..1_100).map(|id| format!("/CCM_Proxy_MutualAuth/{id}/x,x,http://app.corp/{id}\n")).collect();
    let output = import(folder.path(), many.as_bytes(), &["--site", "PS1"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(
        said(&output)
            .contains("routings.csv:1025: found /CCM_Proxy_MutualAuth/1024/x, expected at most 1024 roles")
    );
    let written = fs::read_to_string(folder.path().join("site.toml")).unwrap();
    assert_eq!(written.matches("[[endpoint]]").count(), 1024);
}

#[test]
fn signs_that_a_terminal_would_obey_are_shown_as_text() {
    let folder = folder();
    let output = import(folder.path(), b"a,b,c\n\x1b[2Jx,y,z\n", &["--site", "PS1"]);
    assert!(said(&output).contains("\\u{1b}[2Jx") && !said(&output).contains('\x1b'), "{}", said(&output));
}
