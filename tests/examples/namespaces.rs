//! A suite of Rust's own test runner, without any crate: `rustc --test namespaces.rs && rayplane test-env run --
//! ./namespaces`. The standard library has no TLS, so kubectl carries the requests. With kube-rs it is
//! `Client::try_default().await?`, which reads KUBECONFIG too.
use std::io::Write;
use std::process::{Command, Stdio};

/// What kubectl prints, given `input`; the cluster is that of KUBECONFIG.
fn kubectl(arguments: &[&str], input: &str) -> String {
    let mut running = Command::new("kubectl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("kubectl is not on PATH");
    running
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let done = running.wait_with_output().unwrap();
    assert!(done.status.success(), "kubectl {:?} failed", arguments);
    String::from_utf8(done.stdout).unwrap()
}

#[test]
fn a_namespace_is_made_and_can_be_found() {
    let namespace =
        r#"{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "from-rust"}}"#;
    kubectl(
        &["create", "--raw", "/api/v1/namespaces", "-f", "-"],
        namespace,
    );
    assert!(
        kubectl(&["get", "--raw", "/api/v1/namespaces/from-rust"], "").contains("\"from-rust\"")
    );
}
