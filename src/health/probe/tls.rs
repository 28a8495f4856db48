//! TLS as checks speak it: by default without a look at the certificate, as
//! load balancers do: what is asked is whether the server serves.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

/// Bytes of a file of certificates at most; those of all public authorities
/// together have less than one million.
const FILE_MAX: u64 = 16 << 20;

/// How HTTPS is spoken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tls {
    /// The name asked for (SNI, RFC 6066 §3), and the one a verified certificate
    /// has to be for; without it none is asked for, and the certificate has to be
    /// for the address.
    pub name: Option<String>,
    /// Who may have signed the certificate; `None`: any certificate will do.
    pub authorities: Option<Authorities>,
}

impl Tls {
    /// Whether `name` is one that can be asked for.
    pub fn is_name(name: &str) -> bool {
        is_name(name)
    }
}

/// Certificates of authorities.
#[derive(Clone, Debug)]
pub struct Authorities {
    /// The file they come from.
    pub path: PathBuf,
    certificates: Vec<CertificateDer<'static>>,
    roots: Arc<RootCertStore>,
}

impl PartialEq for Authorities {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path && self.certificates == other.certificates
    }
}

impl Eq for Authorities {}

impl Authorities {
    /// Reads a file of certificates in PEM.
    ///
    /// # Errors
    /// What is wrong with it, to stand behind its name.
    pub fn load(path: PathBuf) -> Result<Self, String> {
        let certificates = certificates(&path)?;
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            roots
                .add(certificate.clone())
                .map_err(|error| format!("has a certificate that can't be used: {error}"))?;
        }
        Ok(Self {
            path,
            certificates,
            roots: Arc::new(roots),
        })
    }
}

/// The certificates of a file.
pub(in crate::health) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let unread = |error: std::io::Error| format!("can't be read: {error}");
    let found = std::fs::metadata(path).map_err(unread)?;
    // A pipe would keep whoever reads it waiting.
    if !found.is_file() || found.len() > FILE_MAX {
        return Err("is no regular file of at most 16 MiB".into());
    }
    let text = std::fs::read(path).map_err(unread)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if found.is_empty() => Err("has no certificate in PEM".into()),
        Ok(found) => Ok(found),
        Err(error) => Err(format!("is no PEM: {error}")),
    }
}

/// Whether `name` can be asked for.
pub(in crate::health) fn is_name(name: &str) -> bool {
    matches!(ServerName::try_from(name), Ok(ServerName::DnsName(_)))
}

/// Who is asked for.
pub(super) fn server_name(tls: &Tls, address: Ipv4Addr) -> ServerName<'static> {
    let named = tls.name.clone();
    named
        .and_then(|name| ServerName::try_from(name).ok())
        .unwrap_or_else(|| ServerName::IpAddress(address.into()))
}

/// What all checks of a service share.
#[expect(
    clippy::expect_used,
    reason = "the versions are the provider's own: ring speaks TLS 1.2 and 1.3"
)]
pub(in crate::health) fn client(tls: &Tls) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("ring speaks TLS 1.2 and 1.3");
    let config = match &tls.authorities {
        Some(authorities) => builder.with_root_certificates(Arc::clone(&authorities.roots)),
        None => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unverified(provider))),
    };
    Arc::new(config.with_no_client_auth())
}

/// Takes every certificate.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
