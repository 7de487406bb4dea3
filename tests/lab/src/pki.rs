//! Keys, certificates and kubeconfigs: one authority for the lab, and a certificate for each client and server of its
//! API.

use std::net::IpAddr;

use anyhow::Context;
use base64::Engine as _;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};

use super::layout::{Layout, Machine, link_addresses};

pub(super) fn create(layout: &Layout) -> anyhow::Result<()> {
    let authority = Authority::create(layout)?;
    let (_, link) = link_addresses(layout.link);
    let server = Machine::ControlPlane;
    let names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"];
    let addresses = [
        &*server.address(),
        &server.address6(),
        "10.96.0.1",
        "fd00:10:96::1",
        "127.0.0.1",
        &link,
    ];
    authority.issue("apiserver", "kube-apiserver", None, &names, &addresses)?;
    authority.issue(
        "kubelet-client",
        "apiserver-kubelet",
        Some("system:masters"),
        &[],
        &[],
    )?;

    for (name, user, group) in [
        ("admin", "admin", Some("system:masters")),
        ("controller-manager", "system:kube-controller-manager", None),
        ("scheduler", "system:kube-scheduler", None),
        ("proxy", "system:kube-proxy", None),
    ] {
        authority.issue(name, user, group, &[], &[])?;
        layout.write(
            &format!("pki/{name}.kubeconfig"),
            &authority.kubeconfig(name, &server.address())?,
        )?;
    }
    layout.write("kubeconfig", &authority.kubeconfig("admin", &link)?)?;
    for number in 1..=layout.nodes {
        let node = Machine::Node(number);
        let name = node.name();
        let addresses = [&*node.address(), &node.address6()];
        authority.issue(
            &name,
            &format!("system:node:{name}"),
            Some("system:nodes"),
            &[&name],
            &addresses,
        )?;
        layout.write(
            &format!("pki/{name}.kubeconfig"),
            &authority.kubeconfig(&name, &server.address())?,
        )?;
    }

    let tokens = KeyPair::generate()?;
    layout.write("pki/tokens.key", &tokens.serialize_pem())?;
    layout.write("pki/tokens.pub", &tokens.public_key_pem())?;
    Ok(())
}

struct Authority<'a> {
    layout: &'a Layout,
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl<'a> Authority<'a> {
    fn create(layout: &'a Layout) -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = subject("lab", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params
            .self_signed(&key)
            .context("sign the authority's certificate")?;
        layout.write("pki/ca.crt", &certificate.pem())?;
        Ok(Self {
            layout,
            certificate,
            issuer: Issuer::new(params, key),
        })
    }

    /// Issues a certificate for both ends of a connection.
    fn issue(
        &self,
        file: &str,
        name: &str,
        group: Option<&str>,
        dns: &[&str],
        ips: &[&str],
    ) -> anyhow::Result<()> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(name, group);
        for name in dns {
            params
                .subject_alt_names
                .push(SanType::DnsName((*name).try_into()?));
        }
        for ip in ips {
            params
                .subject_alt_names
                .push(SanType::IpAddress(ip.parse::<IpAddr>()?));
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let certificate = params
            .signed_by(&key, &self.issuer)
            .with_context(|| format!("sign the certificate of {name}"))?;
        self.layout
            .write(&format!("pki/{file}.crt"), &certificate.pem())?;
        self.layout
            .write(&format!("pki/{file}.key"), &key.serialize_pem())?;
        Ok(())
    }

    /// A kubeconfig with embedded keys, which can be copied anywhere.
    fn kubeconfig(&self, user: &str, server: &str) -> anyhow::Result<String> {
        let read = |extension: &str| {
            let path = self.layout.pki().join(format!("{user}.{extension}"));
            std::fs::read(&path).with_context(|| format!("read {}", path.display()))
        };
        let config = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": self.layout.name, "cluster": {
                "server": format!("https://{server}:6443"),
                "certificate-authority-data": base64(self.certificate.pem().as_bytes()),
            }}],
            "users": [{"name": user, "user": {
                "client-certificate-data": base64(&read("crt")?),
                "client-key-data": base64(&read("key")?),
            }}],
            "contexts": [{"name": self.layout.name, "context": {"cluster": self.layout.name, "user": user}}],
            "current-context": self.layout.name,
        });
        Ok(serde_yaml::to_string(&config)?)
    }
}

fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn subject(name: &str, group: Option<&str>) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    if let Some(group) = group {
        subject.push(DnType::OrganizationName, group);
    }
    subject.push(DnType::CommonName, name);
    subject
}
