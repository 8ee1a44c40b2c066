//! Settings files against each other: what each of them allows alone and all of them together do not.

use std::net::{IpAddr, SocketAddr};

use rustls::pki_types::UnixTime;
use webpki::KeyUsage;

use super::certificates::{ChainFault, bears, chains_to, names, subject};
use super::site::never_clients;
use super::{ConnectorReview, Desk, Document, Findings, GatewayReview, Listener, SiteReview};
use crate::settings::{DialAddress, GatewayAddress, GatewaySettings, SiteSettings};

/// Judges files against each other; sites that connection points name are among `connectors`.
pub fn across(
    gateways: &[GatewayReview],
    connectors: &[ConnectorReview],
    sites: &[SiteReview],
    now: UnixTime,
) -> Findings {
    let mut findings = Findings::default();
    let mut all_sites: Vec<&SiteReview> = connectors.iter().filter_map(|one| one.site.as_ref()).collect();
    all_sites.extend(sites);
    for connector in connectors {
        findings.join(dialled(connector, gateways, now));
        for gateway in gateways {
            findings.join(same_internal_ca(connector, gateway, now));
        }
    }
    for site in &all_sites {
        findings.join(rights(site, gateways, now));
        for gateway in gateways {
            let mut desk = Desk::new(&gateway.document, now);
            never_clients(&mut desk, &site.trust, &gateway.internal_ca, None);
            findings.join(desk.findings);
        }
    }
    findings.join(same_serial(&all_sites, now));
    findings.join(ports(gateways, connectors, now));
    findings.sort();
    findings
}

/// Each address that a connection point dials against the instance that bears the name it expects.
fn dialled(connector: &ConnectorReview, gateways: &[GatewayReview], now: UnixTime) -> Findings {
    let mut desk = Desk::new(&connector.document, now);
    let Some(settings) = &connector.settings else { return desk.findings };
    for (index, address) in settings.gateways.iter().enumerate() {
        let section = format!("gateway[{}]", index + 1);
        let named = gateways.iter().find(|gateway| is_named(gateway, &address.name));
        let listening = gateways.iter().find(|gateway| is_listening(gateway, &address.address));
        if let Some(gateway) = named {
            by_https(&mut desk, &section, address, gateway);
        }
        match (named, listening) {
            (Some(gateway), _) if is_listening(gateway, &address.address) => {
                desk.fine(format!("{section} is {}", gateway.document.name));
            }
            (Some(gateway), _) => misses(&mut desk, &section, address, gateway),
            (None, Some(gateway)) => {
                let Some(own) = &gateway.internal else { continue };
                let found = format!("\"{}\"", address.name);
                let expected = format!(
                    "the TLS name that the internal certificate of {} bears: {}",
                    gateway.document.name,
                    names(own.leaf()).join(", ")
                );
                desk.error(&format!("{section}.name"), found, expected);
            }
            (None, None) if !gateways.is_empty() => {
                let found = format!("\"{}\" under the name \"{}\"", address.address, address.name);
                let expected = "an instance whose gateway.toml is among the files given (look at it together with this one)";
                desk.warn(&format!("{section}.address"), found, expected);
            }
            (None, None) => {}
        }
    }
    desk.findings
}

fn is_named(gateway: &GatewayReview, name: &str) -> bool {
    gateway.internal.as_ref().is_some_and(|own| bears(own.leaf(), name))
}

/// Whether a dialled address can be one of the gateway's channel listeners: a name can be anything's.
fn is_listening(gateway: &GatewayReview, address: &DialAddress) -> bool {
    let Some(settings) = &gateway.settings else { return false };
    settings.internal_listeners.iter().any(|listener| can_be(listener, address))
}

fn can_be(listener: &SocketAddr, address: &DialAddress) -> bool {
    let dialled: Option<IpAddr> = match address.host.as_str() {
        "localhost" => Some(IpAddr::from([127, 0, 0, 1])),
        host => host.parse().ok(),
    };
    let is_there = match dialled {
        None => !listener.ip().is_loopback(),
        Some(ip) if listener.ip().is_unspecified() => ip.is_ipv4() == listener.is_ipv4(),
        Some(ip) => ip == listener.ip(),
    };
    is_there && listener.port() == address.port
}

/// Addresses of HTTPS where the instance takes no channel: a firewall or a balancer may stand between, and nobody
/// would miss them before they are needed.
fn by_https(desk: &mut Desk<'_>, section: &str, address: &GatewayAddress, gateway: &GatewayReview) {
    let Some(settings) = &gateway.settings else { return };
    let among_clients = settings.listeners.iter().filter(|_| settings.https_among_clients);
    for one in &address.https {
        let takes = |listener: &SocketAddr| can_be(listener, one);
        if settings.https_listeners.iter().chain(among_clients.clone()).any(takes) {
            continue;
        }
        let expected = format!(
            "an [[internal.https_listener]] or a [[listener]] of {}, unless something between them maps the port, or \
             https = [] where there is no way by HTTPS",
            gateway.document.name
        );
        desk.warn(&format!("{section}.https"), format!("\"{one}\""), expected);
    }
}

fn misses(desk: &mut Desk<'_>, section: &str, address: &GatewayAddress, gateway: &GatewayReview) {
    let Some(settings) = &gateway.settings else { return };
    let key = format!("{section}.address");
    let listeners: Vec<_> = settings.internal_listeners.iter().map(ToString::to_string).collect();
    let is_clients = settings.listeners.iter().any(|listener| listener.port() == address.address.port);
    let note = if is_clients { ", where clients come in" } else { "" };
    let found = format!("\"{}\"{note}", address.address);
    let expected = format!("an [[internal.listener]] of {}: {}", gateway.document.name, listeners.join(", "));
    if is_here(&address.address.host) || is_clients {
        desk.error(&key, found, expected);
    } else {
        // A firewall or a forwarded port may stand between; only the operator knows.
        desk.warn(&key, found, format!("{expected}, unless something between them maps the port"));
    }
}

fn is_here(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

fn same_internal_ca(connector: &ConnectorReview, gateway: &GatewayReview, now: UnixTime) -> Findings {
    let mut findings = Findings::default();
    let cases = [
        (&connector.document, connector.internal.as_ref(), &gateway.document, &gateway.internal_ca, false),
        (&gateway.document, gateway.internal.as_ref(), &connector.document, &connector.internal_ca, true),
    ];
    for (document, own, other, ca, is_server) in cases {
        let (Some(own), false) = (own, ca.is_empty()) else { continue };
        let usage = if is_server { KeyUsage::server_auth() } else { KeyUsage::client_auth() };
        if let Err(ChainFault::Stranger) = chains_to(&own.certified.cert, ca, now, usage) {
            let mut desk = Desk::new(document, now);
            let found = format!("{}, which {} does not know as internal", subject(own.leaf()), other.name);
            let names: Vec<_> = ca.iter().map(|der| subject(der)).collect();
            let expected =
                format!("a certificate of the internal CA there ({}): all roles have one", names.join(", "));
            desk.error("internal.certificate", found, expected);
            findings.join(desk.findings);
        }
    }
    findings
}

/// Whether gateways let the site publish what it publishes.
fn rights(site: &SiteReview, gateways: &[GatewayReview], now: UnixTime) -> Findings {
    let mut desk = Desk::new(&site.document, now);
    let Some(settings) = &site.settings else { return desk.findings };
    for gateway in gateways {
        if let Some(rights) = &gateway.settings {
            rights_at(&mut desk, settings, rights, &gateway.document);
        }
    }
    desk.findings
}

fn rights_at(desk: &mut Desk<'_>, site: &SiteSettings, gateway: &GatewaySettings, document: &Document) {
    let Some(rights) = gateway.sites.iter().find(|rights| rights.code == site.code) else {
        let codes: Vec<_> = gateway.sites.iter().map(|rights| rights.code.as_str()).collect();
        let found = format!("\"{}\", which {} does not let in", site.code, document.name);
        let expected = format!("a [[site]] with this code there; it has {}", codes.join(", "));
        desk.error("code", found, expected);
        return;
    };
    for (role, key) in site.roles.iter().zip(&site.role_keys) {
        if !rights.role_ids.contains(role.id) {
            let found =
                format!("{}, which {} does not let site {} publish", role.id, document.name, site.code);
            let expected = format!("a role id among its role_ids there: {}", rights.role_ids);
            desk.error(&format!("{key}.id"), found, expected);
        }
    }
}

/// Two files of one site that say different things under one serial.
fn same_serial(sites: &[&SiteReview], now: UnixTime) -> Findings {
    let mut findings = Findings::default();
    for (index, one) in sites.iter().enumerate() {
        let Some(own) = one.revision() else { continue };
        let other = sites[..index].iter().find(|other| {
            other.revision().is_some_and(|revision| {
                revision.site == own.site && revision.serial == own.serial && revision.sha256 != own.sha256
            })
        });
        if let Some(other) = other {
            let mut desk = Desk::new(&one.document, now);
            let found = format!(
                "{}, the serial of other settings of this site in {}",
                own.serial, other.document.name
            );
            desk.error(
                "serial",
                found,
                "the same content under one serial, or a higher serial for the newer one",
            );
            findings.join(desk.findings);
        }
    }
    findings
}

/// Ports that roles would take from each other on one machine.
fn ports(gateways: &[GatewayReview], connectors: &[ConnectorReview], now: UnixTime) -> Findings {
    let mut findings = Findings::default();
    let roles = gateways.iter().map(|one| (&one.document, one.listeners()));
    let roles: Vec<(&Document, Vec<Listener>)> =
        roles.chain(connectors.iter().map(|one| (&one.document, one.listeners()))).collect();
    let is_one_machine = |one: &Document, other: &Document| {
        let dials_here = |connector: &ConnectorReview| {
            let gateways = connector.settings.iter().flat_map(|settings| &settings.gateways);
            gateways.clone().count() > 0 && gateways.clone().all(|gateway| is_here(&gateway.address.host))
        };
        connectors.iter().any(|connector| {
            [one, other].iter().any(|document| document.path == connector.document.path)
                && dials_here(connector)
        })
    };
    for (index, (document, listeners)) in roles.iter().enumerate() {
        for (other, others) in &roles[..index] {
            for listener in listeners {
                let Some(holder) = others.iter().find(|holder| holder.meets(listener)) else { continue };
                let mut desk = Desk::new(document, now);
                let line = other.source().error(&holder.key, "", "").line;
                let found = format!(
                    "\"{}\", which overlaps {} \"{}\" of {}:{line}",
                    listener.address, holder.key, holder.address, other.name
                );
                if is_one_machine(document, other) {
                    desk.error(&listener.key, found, "a port of its own");
                } else {
                    desk.warn(&listener.key, found, "a port of its own, if both run on one machine");
                }
                findings.join(desk.findings);
            }
        }
    }
    findings
}
