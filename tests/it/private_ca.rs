//! An API behind a private certificate authority: the gateway and the paying client believe it when they are told to.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::support::program::{Running, finish, free_address, program, run};
use crate::support::{GOOD, Pay, World};

/// An API on TLS, whose certificate an authority of its own has signed; that authority's certificate is in the file.
async fn https_api(folder: &Path) -> SocketAddr {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    std::fs::write(folder.join("private-ca.pem"), authority.self_signed(&authority_key).unwrap().pem())
        .unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let certificate = certificate.signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
    let (acceptor, listener) =
        (TlsAcceptor::from(Arc::new(config)), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut socket) = acceptor.accept(socket).await else { return };
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n")
                    && socket.read_buf(&mut request).await.is_ok_and(|n| n > 0)
                {}
                let answer = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\nsecret";
                let _ = socket.write_all(answer.as_bytes()).await;
                let _ = socket.shutdown().await;
            });
        }
    });
    address
}

async fn serve(
    world: &World,
    listen: SocketAddr,
    api: SocketAddr,
    more: &str,
    env: &[(&str, &str)],
) -> Running {
    let text = world.toml(listen, free_address());
    let file = world.folder.path().join("serve.toml");
    let upstream = format!("url = \"{}\"", world.upstream.url);
    std::fs::write(&file, text.replacen(&upstream, &format!("url = \"https://{api}\"\n{more}"), 1)).unwrap();
    let mut command = program(world.folder.path(), &["serve", "--config", "serve.toml"]);
    command.envs(world.environment()).envs(env.iter().copied());
    let server = Running::watched(command);
    server.says("selling on").await;
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_believes_an_authority_that_a_file_names_and_no_other() {
    let world = World::new().await;
    let api = https_api(world.folder.path()).await;
    let file = world.folder.path().join("private-ca.pem");
    let (setting, variable) = ("ca_file = \"private-ca.pem\"", [("SSL_CERT_FILE", file.to_str().unwrap())]);
    let unrelated: &[(&str, &str)] = &[];
    for (more, env, status) in [("", unrelated, 502), (setting, unrelated, 200), ("", &variable, 200)] {
        let listen = free_address();
        let server = serve(&world, listen, api, more, env).await;
        let pay = Pay::card(&world.tokenise(GOOD).await).header();
        let url = format!("http://{listen}/api/weather");
        let answer = world.client.send("GET", &url, &[("payment", &pay)], None).await;
        assert_eq!(answer.status, status, "{more} {env:?}: {}", answer.text());
        if status == 200 {
            assert_eq!(answer.text(), "secret");
        } else {
            assert_eq!(
                answer.code(),
                "upstream_unreachable",
                "no card is charged for an API whose name nobody vouches for"
            );
            assert!(world.succeeded_charges().await.is_empty());
        }
        assert_eq!(server.terminate().await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_names_no_authority_stops_the_start_with_its_name() {
    let world = World::new().await;
    let listen = free_address();
    std::fs::write(world.folder.path().join("odd.pem"), "nothing of the kind").unwrap();
    for (more, env, part) in [
        ("ca_file = \"absent.pem\"", None, "upstream.ca_file: cannot read"),
        ("ca_file = \"odd.pem\"", None, "odd.pem holds no certificate"),
        ("", Some(("SSL_CERT_FILE", "absent.pem")), "SSL_CERT_FILE: cannot read"),
    ] {
        let text = world.toml(listen, free_address());
        let upstream = format!("url = \"{}\"", world.upstream.url);
        let text = text.replacen(&upstream, &format!("url = \"https://127.0.0.1:9\"\n{more}"), 1);
        std::fs::write(world.folder.path().join("serve.toml"), text).unwrap();
        let mut command = program(world.folder.path(), &["check-config", "--config", "serve.toml"]);
        command.envs(world.environment()).envs(env);
        let ran = finish(command, None).await;
        assert_eq!(ran.code, 2, "{more} {ran:?}");
        assert!(ran.err.contains(part), "{part} in {}", ran.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_paying_client_believes_it_for_the_seller() {
    let home = tempfile::tempdir().unwrap();
    let api = https_api(home.path()).await;
    let url = format!("https://{api}/thing");
    let without = run(home.path(), &["get", &url]).await;
    assert_eq!((without.code, without.out.as_str()), (1, ""), "{without:?}");
    let named = run(home.path(), &["get", &url, "--ca-file", "private-ca.pem"]).await;
    assert_eq!((named.code, named.out.as_str()), (0, "secret"), "{named:?}");
    let mut command = program(home.path(), &["get", &url]);
    command.env("SSL_CERT_FILE", home.path().join("private-ca.pem"));
    let told = finish(command, None).await;
    assert_eq!((told.code, told.out.as_str()), (0, "secret"), "{told:?}");
    let wrong = run(home.path(), &["get", &url, "--ca-file", "absent.pem"]).await;
    assert_eq!(wrong.code, 2, "{wrong:?}");
    assert!(wrong.err.contains("absent.pem"), "{}", wrong.err);
}
