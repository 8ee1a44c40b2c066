//! One named scenario for each feature that works over a gateway.
//!
//! The steps are those that public documentation, published logs and open tools show; where these are silent (how a held
//! notification request looks behind `LogIn`, what a script's result goes by) the nearest known form stands in, and says so.

use super::catalogue::{CLIENT_FILE_SIZE, Reply};
use super::step::{Agent, Hold, Kind, Packet, Proof, Role, Step};

/// A feature and how a client uses it, from begin to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// Its name on the command line.
    pub name: &'static str,
    /// In one line.
    pub about: &'static str,
    /// What a client does.
    pub steps: &'static [Step],
}

const LOG_IN: &str = "/BGB/handler.ashx?RequestType=LogIn";
/// The name of the request that waits is not published; this one follows the name of its message.
const KEEP_ALIVE: &str = "/BGB/handler.ashx?RequestType=KeepAlive";
const SETUP: &str = "/CCM_Client/ccmsetup.cab";
const UPDATE: &str = "/Content/3F/8A1B0C5D2E4F60718293A4B5C6D7E8F90A1B2C3F.cab";
const CLIENT_SERVICE: &str = "/ClientWebService/client.asmx";

const fn state(name: &'static str, size: usize) -> Step {
    Step::message(name, "MP_RelayEndpoint", size, Reply::Taken)
}

const fn pushed(name: &'static str) -> Step {
    Step::notice(name, KEEP_ALIVE, "KeepAlive", Hold::Push, Reply::Push)
}

const fn confirmed() -> Step {
    Step::notice("notification confirmed", LOG_IN, "Response", Hold::No, Reply::SignedIn)
}

const fn policy(name: &'static str, path: &'static str, index: usize) -> Step {
    Step::get(name, path, Reply::Policy(index)).proved(Proof::Policy)
}

const POLICY_PATHS: [&str; 4] = [
    "/SMS_MP/.sms_pol?{0f1e2d3c-0001-4a5b-8c6d-7e8f90a1b201}.1.00",
    "/SMS_MP/.sms_pol?{0f1e2d3c-0002-4a5b-8c6d-7e8f90a1b202}.7.00",
    "/SMS_MP/.sms_pol?{0f1e2d3c-0003-4a5b-8c6d-7e8f90a1b203}.12.00",
    "/SMS_MP/.sms_pol?{0f1e2d3c-0004-4a5b-8c6d-7e8f90a1b204}.3.00",
];

const fn fragment(name: &'static str, first: u64, last: u64) -> Step {
    Step::packet(name, Packet::Fragment(first, last, 300_000))
}

const fn package(name: &'static str, path: &'static str, index: usize) -> Step {
    Step::get(name, path, Reply::Package(index))
}

const GET_APPLICATIONS: &str = "http://schemas.microsoft.com/5.0.0.0/ConfigurationManager/GetApplications";
const INSTALL_APPLICATION: &str =
    "http://schemas.microsoft.com/5.0.0.0/ConfigurationManager/InstallApplication";

const fn user_service(name: &'static str, action: &'static str, size: usize) -> Step {
    Step::soap(name, "/CMUserService", action, size, Reply::UserService)
        .of(Role::ManagementPoint)
        .by(Agent::Client)
}

/// A message of a client without certificate.
const fn token_message(name: &'static str, endpoint: &'static str, size: usize, reply: Reply) -> Step {
    Step::message(name, endpoint, size, reply).at("/ccm_system_tokenauth/request").with_token()
}

const MEBIBYTE: u64 = 1 << 20;

/// HEAD, then three parts.
const fn setup_file(part: usize) -> Step {
    match part {
        0 => Step::head("ccmsetup.cab, its length", SETUP, Reply::ClientFile),
        1 => Step::part("ccmsetup.cab, first part", SETUP, 0, MEBIBYTE - 1, Reply::ClientFile),
        2 => Step::part("ccmsetup.cab, second part", SETUP, MEBIBYTE, 2 * MEBIBYTE - 1, Reply::ClientFile),
        _ => Step::part("ccmsetup.cab, rest", SETUP, 2 * MEBIBYTE, CLIENT_FILE_SIZE - 1, Reply::ClientFile),
    }
}

/// All of them, in the order of a client's life.
pub const FEATURES: &[Feature] = &[
    Feature {
        name: "service-metadata",
        about: "the probe that administrators and ccmsetup use, under both families",
        steps: &[
            Step::get("with certificate", "/ServiceMetadata", Reply::Gateway)
                .of(Role::Gateway)
                .by(Agent::Setup)
                .counted(Kind::Token),
            Step::get("with token", "/ServiceMetadata", Reply::Gateway)
                .of(Role::Gateway)
                .by(Agent::Setup)
                .counted(Kind::Token)
                .with_token(),
        ],
    },
    Feature {
        name: "client-install",
        about: "ccmsetup over the internet with tokens: tenant, token, location, files in parts, registration",
        steps: &[
            Step::get(
                "AADAuthInfo",
                "/AADAuthInfo?TenantID=6f1c2a3b-4d5e-4f60-8a7b-9c0d1e2f3a4b",
                Reply::Gateway,
            )
            .of(Role::Gateway)
            .by(Agent::Setup)
            .counted(Kind::Token)
            .with_token(),
            Step::get("token exchange", "/CCM_STS", Reply::Token)
                .by(Agent::Setup)
                .counted(Kind::Token)
                .with_token(),
            token_message("location", "MP_LocationManager", 1_100, Reply::Location),
            setup_file(0).by(Agent::Setup).with_token(),
            setup_file(1).with_token(),
            setup_file(2).with_token(),
            setup_file(3).with_token(),
            token_message("registration", "MP_ClientRegistration", 4_600, Reply::Registration),
            token_message("site token", "MP_TokenManager", 1_900, Reply::SiteToken),
        ],
    },
    Feature {
        name: "bulk-install",
        about: "ccmsetup with a registration token of the site (/regtoken): the same without a directory",
        steps: &[
            Step::get("ServiceMetadata", "/ServiceMetadata", Reply::Gateway)
                .of(Role::Gateway)
                .by(Agent::Setup)
                .counted(Kind::Token)
                .with_registration_token(),
            token_message("location", "MP_LocationManager", 1_100, Reply::Location).with_registration_token(),
            setup_file(0).by(Agent::Setup).with_registration_token(),
            setup_file(1).with_registration_token(),
            setup_file(2).with_registration_token(),
            setup_file(3).with_registration_token(),
            token_message("registration", "MP_ClientRegistration", 4_600, Reply::Registration)
                .with_registration_token(),
            Step::get("token exchange", "/CCM_STS", Reply::Token)
                .by(Agent::Setup)
                .counted(Kind::Token)
                .with_registration_token(),
            token_message("site token", "MP_TokenManager", 1_900, Reply::SiteToken),
        ],
    },
    Feature {
        name: "client-upgrade",
        about: "a client with a certificate fetches its new version: HEAD, then parts",
        steps: &[setup_file(0), setup_file(1), setup_file(2), setup_file(3), state("result", 900)],
    },
    Feature {
        name: "registration",
        about: "keys of the site, registration, first discovery data",
        steps: &[
            Step::get("signing certificate", "/SMS_MP/.sms_aut?SITESIGNCERT", Reply::PointCertificate),
            Step::message("registration", "MP_ClientRegistration", 4_600, Reply::Registration),
            Step::message("discovery data", "MP_DdrEndpoint", 2_800, Reply::Taken),
        ],
    },
    Feature {
        name: "ccm-token",
        about: "CCM_STS for a client with a certificate",
        steps: &[Step::get("token exchange", "/CCM_STS", Reply::Token)
            .counted(Kind::Token)
            .proved(Proof::Signed)],
    },
    Feature {
        name: "site-token",
        about: "a new site token, about monthly",
        steps: &[Step::message("site token", "MP_TokenManager", 1_900, Reply::SiteToken)],
    },
    Feature {
        name: "location",
        about: "management points, certificates, location messages",
        steps: &[
            Step::get("management points", "/SMS_MP/.sms_aut?MPLIST", Reply::PointList),
            Step::message("location", "MP_LocationManager", 1_100, Reply::Location),
            Step::get("management points of a site", "/SMS_MP/.sms_aut?MPLIST1&ABC", Reply::PointList),
            Step::get("the other list of a site", "/SMS_MP/.sms_aut?MPLIST2&ABC", Reply::PointList),
            Step::get("certificate", "/SMS_MP/.sms_aut?MPCERT", Reply::PointCertificate),
            Step::get("trace", "/SMS_MP/.sms_aut?SMSTRC", Reply::PointTrace),
        ],
    },
    Feature {
        name: "policy",
        about: "assignments, then bodies of 4 to 190 KB",
        steps: &[
            Step::message("assignments", "MP_PolicyManager", 2_400, Reply::Assignments),
            policy("body of 61 KB", POLICY_PATHS[2], 2),
            policy("body of 4 KB", POLICY_PATHS[0], 0),
            policy("body of 17 KB", POLICY_PATHS[1], 1),
            policy("body of 190 KB", POLICY_PATHS[3], 3),
        ],
    },
    Feature { name: "state-messages", about: "what changed on the client", steps: &[state("state", 1_800)] },
    Feature {
        name: "status-messages",
        about: "what the client has to say",
        steps: &[Step::message("status", "MP_StatusReceiver", 1_300, Reply::Taken)],
    },
    Feature {
        name: "inventory",
        about: "hardware inventory of 300 KB as an upload in four fragments",
        steps: &[
            Step::packet("ping", Packet::Ping),
            Step::packet("session", Packet::Create),
            fragment("fragment 1", 0, 81_919),
            fragment("fragment 2", 81_920, 163_839),
            fragment("fragment 3", 163_840, 245_759),
            fragment("fragment 4", 245_760, 299_999),
            Step::packet("close", Packet::Close),
            Step::message("small delta", "MP_HinvEndpoint", 6_500, Reply::Taken),
        ],
    },
    Feature {
        name: "software-inventory",
        about: "what changed among the files of the client",
        steps: &[Step::message("small delta", "MP_SinvEndpoint", 3_200, Reply::Taken)],
    },
    Feature {
        name: "compliance",
        about: "a baseline and an item, then the result",
        steps: &[
            package("baseline", "/SMS_MP/.sms_dcm?Baseline_1", 0),
            package("configuration item", "/SMS_MP/.sms_dcm?ConfigurationItem_2", 1),
            state("result", 5_200),
        ],
    },
    Feature {
        name: "notifications",
        about: "sign in, and wait until the keep-alive time is over",
        steps: &[
            Step::notice("sign-in", LOG_IN, "SignIn", Hold::No, Reply::SignedIn),
            Step::notice("held", KEEP_ALIVE, "KeepAlive", Hold::Quiet, Reply::Nothing),
        ],
    },
    Feature {
        name: "scripts",
        about: "a script comes by notification; its text is fetched, its result sent",
        steps: &[
            pushed("script announced"),
            confirmed(),
            package("script", "/SMS_MP/.sms_dcm?Script_3", 2),
            state("result", 4_100),
        ],
    },
    Feature {
        name: "cmpivot",
        about: "a query comes by notification; its result is sent",
        steps: &[pushed("query announced"), confirmed(), state("result", 9_600)],
    },
    Feature {
        name: "endpoint-protection",
        about: "an action comes by notification; settings are fetched, health is reported",
        steps: &[
            pushed("action announced"),
            confirmed(),
            policy("antimalware settings", POLICY_PATHS[1], 1),
            state("health", 2_300),
        ],
    },
    Feature {
        name: "device-apps",
        about: "an application deployed to the device: assignments, the application, its content's location, the result",
        steps: &[
            Step::message("assignments", "MP_PolicyManager", 2_400, Reply::Assignments),
            package("application", "/SMS_MP/.sms_dcm?Application_4", 3),
            Step::message("content location", "MP_LocationManager", 1_100, Reply::Location),
            state("result", 1_800),
        ],
    },
    Feature {
        name: "user-apps-token",
        about: "Software Center of a device without certificate, with its user's token alone",
        steps: &[
            user_service("applications", GET_APPLICATIONS, 700).with_token(),
            user_service("request", INSTALL_APPLICATION, 900).with_token(),
        ],
    },
    Feature {
        name: "user-apps",
        about: "Software Center asks for applications and wants one",
        steps: &[
            user_service("applications", GET_APPLICATIONS, 700).proved(Proof::Token),
            user_service("request", INSTALL_APPLICATION, 900).proved(Proof::Token),
        ],
    },
    Feature {
        name: "task-sequence",
        about: "media keys, policy, a package's folder, its file in parts, status",
        steps: &[
            Step::get("media keys", "/SMS_MP/.sms_aut?MPKEYINFORMATIONMEDIA", Reply::MediaKeys)
                .by(Agent::TaskSequence),
            Step::message("location", "MP_LocationManager", 1_100, Reply::Location).by(Agent::TaskSequence),
            policy("policy", POLICY_PATHS[3], 3).by(Agent::TaskSequence),
            Step::get("folder", "/CCM_Client/ABC00042/", Reply::Listing)
                .method("PROPFIND")
                .counted(Kind::Content)
                .by(Agent::TaskSequence)
                .proved(Proof::Signed),
            Step::part("file, first part", SETUP, 0, MEBIBYTE - 1, Reply::ClientFile)
                .by(Agent::TaskSequence)
                .proved(Proof::Signed),
            Step::part("file, rest", SETUP, MEBIBYTE, CLIENT_FILE_SIZE - 1, Reply::ClientFile)
                .by(Agent::TaskSequence)
                .proved(Proof::Signed),
            Step::message("status", "MP_StatusReceiver", 1_300, Reply::Taken).by(Agent::TaskSequence),
        ],
    },
    Feature {
        name: "update-scan",
        about: "a scan at the software update point: cookies, updates of 1.4 MB, details, report",
        steps: &[
            Step::soap(
                "authorization cookie",
                "/SimpleAuthWebService/SimpleAuth.asmx",
                "http://www.microsoft.com/SoftwareDistribution/Server/SimpleAuthWebService/GetAuthorizationCookie",
                350,
                Reply::UpdateCookie,
            ),
            Step::soap(
                "configuration",
                CLIENT_SERVICE,
                "http://www.microsoft.com/SoftwareDistribution/Server/ClientWebService/GetConfig",
                200,
                Reply::UpdateConfig,
            ),
            Step::soap(
                "cookie",
                CLIENT_SERVICE,
                "http://www.microsoft.com/SoftwareDistribution/Server/ClientWebService/GetCookie",
                800,
                Reply::UpdateCookie,
            ),
            Step::soap(
                "registration",
                CLIENT_SERVICE,
                "http://www.microsoft.com/SoftwareDistribution/Server/ClientWebService/RegisterComputer",
                1_100,
                Reply::UpdateCookie,
            ),
            Step::soap(
                "updates",
                CLIENT_SERVICE,
                "http://www.microsoft.com/SoftwareDistribution/Server/ClientWebService/SyncUpdates",
                9_000,
                Reply::Updates,
            ),
            Step::soap(
                "details",
                CLIENT_SERVICE,
                "http://www.microsoft.com/SoftwareDistribution/Server/ClientWebService/GetExtendedUpdateInfo",
                2_400,
                Reply::UpdateDetails,
            ),
            Step::soap(
                "report",
                "/ReportingWebService/ReportingWebService.asmx",
                "http://www.microsoft.com/SoftwareDistribution/ReportEventBatch",
                5_000,
                Reply::Reported,
            ),
        ],
    },
    Feature {
        name: "update-content",
        about: "self-update index, and an update in parts, of the software update point",
        steps: &[
            Step::get("self-update", "/SelfUpdate/wuident.cab", Reply::SelfUpdate)
                .of(Role::UpdatePoint)
                .by(Agent::Update)
                .counted(Kind::Content),
            Step::head("update, its length", UPDATE, Reply::UpdateContent).of(Role::UpdatePoint),
            Step::part("update, a part", UPDATE, 2 * MEBIBYTE, 4 * MEBIBYTE - 1, Reply::UpdateContent)
                .of(Role::UpdatePoint),
        ],
    },
];

/// The feature of this name.
pub fn find(name: &str) -> Option<usize> {
    FEATURES.iter().position(|feature| feature.name == name)
}

/// Number of the first step of a feature among all steps.
pub fn first_step(feature: usize) -> usize {
    FEATURES[..feature].iter().map(|feature| feature.steps.len()).sum()
}

/// Every step, with its feature's name.
pub fn step_names() -> Vec<String> {
    let of = |feature: &Feature| {
        let name = feature.name;
        feature.steps.iter().map(move |step| format!("{name}: {}", step.name)).collect::<Vec<_>>()
    };
    FEATURES.iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::super::catalogue::{self, PACKAGES, POLICIES, Service};
    use super::super::step::Payload;
    use super::*;

    #[test]
    fn every_step_is_for_an_endpoint_that_gives_its_reply() {
        for feature in FEATURES {
            for step in feature.steps {
                let (path, query) = step.path.split_once('?').unwrap_or((step.path, ""));
                let service = catalogue::find(path.as_bytes(), query.as_bytes());
                let what = format!("{}: {}", feature.name, step.name);
                let service = service.unwrap_or_else(|| panic!("{what}: no endpoint"));
                assert!(service.methods().contains(&step.method), "{what}: method");
                let reply = match (service, step.payload) {
                    (Service::Plain(reply), _) => reply,
                    (Service::Messaging, Payload::Message(endpoint, _)) => catalogue::message_reply(endpoint),
                    (Service::Updates, Payload::Soap(action, _)) => {
                        catalogue::soap_reply(action).expect("known")
                    }
                    (Service::Uploads, Payload::Packet(_)) => Reply::Ack,
                    (Service::Notification(false), _) => Reply::SignedIn,
                    (Service::Notification(true), _) if step.hold == Hold::Push => Reply::Push,
                    (Service::Notification(true), _) => Reply::Nothing,
                    other => panic!("{what}: {other:?}"),
                };
                assert_eq!(reply, step.reply, "{what}");
            }
        }
    }

    #[test]
    fn names_are_unique_and_tell_feature_and_step() {
        let mut names: Vec<_> = FEATURES.iter().map(|feature| feature.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), FEATURES.len());
        let steps = step_names();
        assert_eq!(steps[first_step(find("policy").expect("there"))], "policy: assignments");
        assert!(u16::try_from(steps.len()).is_ok());
    }

    #[test]
    fn policies_and_packages_are_those_of_the_table() {
        for (path, (id, _)) in POLICY_PATHS.iter().zip(POLICIES) {
            assert!(path.ends_with(id), "{path}");
        }
        assert!(PACKAGES.iter().all(|(name, _)| {
            FEATURES.iter().any(|feature| feature.steps.iter().any(|step| step.path.ends_with(name)))
        }));
    }

    #[test]
    fn fragments_of_an_upload_follow_one_another_to_its_end() {
        let inventory = FEATURES[find("inventory").expect("there")];
        let (mut received, mut whole) = (0, 0);
        for step in inventory.steps {
            if let Payload::Packet(Packet::Fragment(first, last, total)) = step.payload {
                assert_eq!(first, received);
                (received, whole) = (last + 1, total);
            }
        }
        assert!(whole > 0 && received == whole);
    }
}
