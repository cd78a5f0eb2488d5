"""kubeconfig: forms that act, several files as one, what is refused and where; never a value in an error."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flexinfer.errors import BadKubeconfig
from flexinfer.kube import config
from flexinfer.kube.access import Access, ExecPlugin, Material, User
from flexinfer.kube.kubeconfig import Kubeconfig

SECRET = "s3cr3t-value"
SERVER = "https://k8s.example:6443"
V1 = "client.authentication.k8s.io/v1"


def kubeconfig(cluster: Any = None, user: Any = None, context: Any = None, **top: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": SERVER, **(cluster or {})}}],
        "users": [{"name": "u", "user": user or {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", **(context or {})}}],
        "current-context": "x",
        **top,
    }


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else msgspec.json.encode(content))
    return path


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def exec_(**fields: Any) -> dict[str, Any]:
    return {"exec": {"apiVersion": V1, "command": "login", "interactiveMode": "Never", **fields}}


@pytest.mark.parametrize(
    ("written", "access"),
    [
        pytest.param(kubeconfig(), Access(server=SERVER), id="nobody in particular"),
        pytest.param(
            kubeconfig(context={"namespace": "team"}), Access(server=SERVER, namespace="team"), id="a namespace"
        ),
        pytest.param(kubeconfig(context={"user": ""}), Access(server=SERVER), id="no user"),
        pytest.param(kubeconfig(user={"token": "t"}), Access(server=SERVER, user=User(token="t")), id="a token"),
        pytest.param(
            kubeconfig({"certificate-authority-data": b64("CA")}),
            Access(server=SERVER, ca=Material(data=b"CA")),
            id="an authority as data",
        ),
        pytest.param(
            kubeconfig({"certificate-authority-data": b64("CA"), "certificate-authority": "ca.pem"}),
            Access(server=SERVER, ca=Material(data=b"CA")),
            id="data count more than a file",
        ),
        pytest.param(
            kubeconfig({"certificate-authority-data": "Q0\n  E=\n"}),
            Access(server=SERVER, ca=Material(data=b"CA")),
            id="data over several lines",
        ),
        pytest.param(
            kubeconfig({"tls-server-name": "other.example", "proxy-url": "http://proxy:3128"}),
            Access(server=SERVER, tls_server_name="other.example", proxy="http://proxy:3128"),
            id="another name, through a proxy",
        ),
        pytest.param(
            kubeconfig(user={"client-certificate-data": b64("CERT"), "client-key-data": b64("KEY")}),
            Access(server=SERVER, user=User(certificate=Material(data=b"CERT"), key=Material(data=b"KEY"))),
            id="a client certificate as data",
        ),
        pytest.param(
            kubeconfig(
                user={
                    "as": "jane",
                    "as-uid": "7",
                    "as-groups": ["a", "b"],
                    "as-user-extra": {"Example.com/Scopes": ["view", "edit"]},
                }
            ),
            Access(
                server=SERVER,
                user=User(
                    headers=(
                        ("Impersonate-User", "jane"),
                        ("Impersonate-Uid", "7"),
                        ("Impersonate-Group", "a"),
                        ("Impersonate-Group", "b"),
                        ("Impersonate-Extra-example.com%2Fscopes", "view"),
                        ("Impersonate-Extra-example.com%2Fscopes", "edit"),
                    )
                ),
            ),
            id="as somebody else",
        ),
        pytest.param(
            kubeconfig(
                {"extensions": [{"name": "client.authentication.k8s.io/exec", "extension": {"audience": "x"}}]},
                exec_(
                    args=["a", "b"], env=[{"name": "N", "value": "V"}], installHint=" get it ", provideClusterInfo=True
                ),
            ),
            Access(
                server=SERVER,
                exec_config={"audience": "x"},
                user=User(
                    plugin=ExecPlugin(
                        api_version=V1,
                        command="login",
                        args=("a", "b"),
                        env=(("N", "V"),),
                        install_hint="get it",
                        provide_cluster_info=True,
                    )
                ),
            ),
            id="a plugin",
        ),
        pytest.param(
            kubeconfig(
                user={
                    "exec": {
                        "apiVersion": "client.authentication.k8s.io/v1beta1",
                        "command": "login",
                        "args": None,
                        "env": None,
                    }
                }
            ),
            Access(
                server=SERVER,
                user=User(plugin=ExecPlugin(api_version="client.authentication.k8s.io/v1beta1", command="login")),
            ),
            id="a plugin of v1beta1, as aws writes it",
        ),
        pytest.param(
            kubeconfig(preferences={}, extensions=None, colour="red"), Access(server=SERVER), id="fields of others"
        ),
        pytest.param(
            kubeconfig({"server": "http://127.0.0.1:8001"}), Access(server="http://127.0.0.1:8001"), id="kubectl proxy"
        ),
        pytest.param(
            "clusters: [{name: c, cluster: {server: 'https://[::1]:6443'}}]\n"
            "contexts: [{name: x, context: {cluster: c}}]\nusers: null\ncurrent-context: x\n",
            Access(server="https://[::1]:6443"),
            id="YAML without apiVersion and kind",
        ),
    ],
)
def test_forms_that_act(tmp_path, written, access):
    assert Kubeconfig([write(tmp_path / "config", written)]).access() == access


def test_paths_are_relative_to_the_file_they_stand_in(tmp_path):
    user = {
        "tokenFile": "../token",
        "client-certificate": "c.pem",
        "client-key": "/etc/k.pem",
    }
    path = write(tmp_path / "kube" / "config", kubeconfig({"certificate-authority": "ca.pem"}, user))
    access = Kubeconfig([path]).access()
    assert access.ca == Material(file=tmp_path / "kube" / "ca.pem")
    assert access.user == User(
        token_file=tmp_path / "kube" / ".." / "token",
        certificate=Material(file=tmp_path / "kube" / "c.pem"),
        key=Material(file=Path("/etc/k.pem")),
    )
    write(path, kubeconfig(user=exec_(command="./bin/login")))
    plugin = Kubeconfig([path]).access().user.plugin
    assert plugin is not None
    assert plugin.command == str(tmp_path / "kube" / "bin" / "login")


def test_of_several_files_the_first_one_that_names_a_thing_says_all_of_it(tmp_path):
    first = {
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "first"}}],
        "users": [{"name": "u", "user": {"token": "first"}}],
    }
    second = kubeconfig(user={"token": "second", "as": "jane"}, context={"namespace": "second"})
    third = kubeconfig({"server": "https://third"}, **{"current-context": "y"})
    files = [write(tmp_path / name, content) for name, content in (("a", first), ("b", second), ("c", third))]
    merged = Kubeconfig([tmp_path / "missing", *files])
    assert merged.access() == Access(server=SERVER, namespace="first", user=User(token="first"))


def test_a_context_is_chosen_by_name(tmp_path):
    contexts = [{"name": name, "context": {"cluster": "c", "namespace": name}} for name in ("x", "y")]
    found = Kubeconfig([write(tmp_path / "config", kubeconfig(contexts=contexts))])
    assert (found.contexts, found.access("y").namespace, found.access().namespace) == (["x", "y"], "y", "x")


@pytest.mark.parametrize(
    ("written", "path", "expected"),
    [
        pytest.param(
            kubeconfig(
                clusters=[{"name": "a"}, {"name": "b"}, {"name": "c", "cluster": {"insecure-skip-tls-verify": True}}]
            ),
            "clusters[2].cluster.insecure-skip-tls-verify",
            "false: give the certificate of the server's CA in certificate-authority-data",
            id="a server that nobody vouches for",
        ),
        pytest.param(
            kubeconfig({"proxy-url": f"socks5://u:{SECRET}@proxy:1080"}),
            "clusters[0].cluster.proxy-url",
            "an http:// proxy: SOCKS is not spoken; an HTTP proxy in front of it is",
            id="a SOCKS proxy",
        ),
        pytest.param(
            kubeconfig({"proxy-url": f"https://u:{SECRET}@proxy"}),
            "clusters[0].cluster.proxy-url",
            "an http:// proxy, which is asked by CONNECT: what passes through it is encrypted all the same",
            id="a proxy behind TLS",
        ),
        pytest.param(
            kubeconfig(user={"auth-provider": {"name": "gcp", "config": {"access-token": SECRET}}}),
            "users[0].user.auth-provider",
            "none: use the exec plugin of your provider (exec.command)",
            id="an auth-provider",
        ),
        pytest.param(
            kubeconfig(user={"username": "admin", "password": SECRET}),
            "users[0].user.username",
            "none: API servers no longer take passwords; use token, tokenFile or exec",
            id="a user name",
        ),
        pytest.param(
            kubeconfig(user={"password": SECRET}),
            "users[0].user.password",
            "none: API servers no longer take passwords; use token, tokenFile or exec",
            id="a password",
        ),
        pytest.param(
            kubeconfig(user={**exec_(), "token": SECRET}),
            "users[0].user.exec",
            "none beside token and tokenFile: one of them",
            id="a plugin beside a token",
        ),
        pytest.param(
            kubeconfig(user={"token": f"{SECRET}\n"}),
            "users[0].user.token",
            "a token without spaces and control characters",
            id="a token with a line end",
        ),
        pytest.param(
            kubeconfig(user={"client-certificate-data": b64(SECRET)}),
            "users[0].user.client-key",
            "the other half: a client certificate has its key beside it",
            id="a certificate without its key",
        ),
        pytest.param(
            kubeconfig(user={"client-key-data": SECRET, "client-certificate": "c.pem"}),
            "users[0].user.client-key-data",
            "base64",
            id="a key that is no base64",
        ),
        pytest.param(
            kubeconfig(user={"as-groups": ["admins"]}),
            "users[0].user.as",
            "the name of a user beside as-uid, as-groups and as-user-extra",
            id="groups of nobody",
        ),
        pytest.param(
            kubeconfig(user={"as": "jane\r\nX-Y: z"}),
            "users[0].user.as",
            "names without control characters",
            id="a header in a name",
        ),
        pytest.param(
            kubeconfig(user=exec_(apiVersion="client.authentication.k8s.io/v1alpha1")),
            "users[0].user.exec.apiVersion",
            "client.authentication.k8s.io/v1 or client.authentication.k8s.io/v1beta1",
            id="an old plugin",
        ),
        pytest.param(
            kubeconfig(user=exec_(interactiveMode="Always")),
            "users[0].user.exec.interactiveMode",
            "Never or IfAvailable: nobody sits at a terminal here",
            id="a plugin that asks at the terminal",
        ),
        pytest.param(
            kubeconfig(user=exec_(interactiveMode="")),
            "users[0].user.exec.interactiveMode",
            "Never or IfAvailable",
            id="a plugin of v1 that does not say whether it asks",
        ),
        pytest.param(
            kubeconfig(user=exec_(command="")), "users[0].user.exec.command", "the program to run", id="no program"
        ),
        pytest.param(
            kubeconfig(user=exec_(args=[SECRET, 7])),
            "users[0].user.exec.args[1]",
            "another type (Expected `str`, got `int`)",
            id="an argument that is a number",
        ),
        pytest.param(
            kubeconfig(user={"token": {"x": SECRET}}),
            "users[0].user.token",
            "another type (Expected `str`, got `object`)",
            id="a token that is no text",
        ),
        pytest.param(
            kubeconfig({"server": ""}), "clusters[0].cluster.server", "the URL of an API server", id="no server"
        ),
        pytest.param(
            kubeconfig({"server": "http://k8s.example"}),
            "clusters[0].cluster.server",
            "an https URL: http is for a server on this machine, such as `kubectl proxy`",
            id="a server without TLS",
        ),
        pytest.param(
            kubeconfig({"server": f"https://u:{SECRET}@k8s.example"}),
            "clusters[0].cluster.server",
            "an https URL with a host, without a user or query",
            id="a user in the URL",
        ),
        pytest.param(
            kubeconfig({"server": "k8s.example:6443"}),
            "clusters[0].cluster.server",
            "an https URL with a host, without a user or query",
            id="no URL",
        ),
        pytest.param(
            kubeconfig(context={"cluster": "d"}),
            "contexts[0].context.cluster",
            "the name of one of the clusters: c",
            id="a cluster that is not there",
        ),
        pytest.param(
            kubeconfig(context={"user": "v"}),
            "contexts[0].context.user",
            "the name of one of the users: u",
            id="a user that is not there",
        ),
        pytest.param(
            kubeconfig(**{"current-context": "z"}),
            "current-context",
            "one of the contexts x, and not 'z'",
            id="a context that is not there",
        ),
        pytest.param(
            kubeconfig(**{"current-context": ""}),
            "current-context",
            "the name of one of the contexts: x",
            id="no choice",
        ),
        pytest.param({"kind": "Pod", "apiVersion": "v1"}, "kind", "Config of apiVersion v1", id="another kind"),
        pytest.param("a: 1\n---\nb: 2\n", "line 2", "one document", id="two documents"),
        pytest.param(f"users: [{{token: {SECRET}\n", "line 2", "YAML", id="a file cut short"),
    ],
)
def test_refused_at_its_path(tmp_path, written, path, expected):
    file = write(tmp_path / "config", written)
    with pytest.raises(BadKubeconfig) as raised:
        Kubeconfig([file]).access()
    error = raised.value
    assert (error.file, error.path) == (str(file), path)
    assert error.expected.startswith(expected)
    assert str(error).startswith(f"{file}: {path}: expected {expected}")
    assert SECRET not in f"{error!r} {error}"


def test_the_file_named_is_the_one_of_several_that_is_wrong(tmp_path):
    good = write(tmp_path / "good", kubeconfig(users=[]))
    bad = write(tmp_path / "bad", {"users": [{"name": "u", "user": {"password": SECRET}}]})
    with pytest.raises(BadKubeconfig) as raised:
        Kubeconfig([good, bad]).access()
    assert (raised.value.file, raised.value.path) == (str(bad), "users[0].user.password")


def test_secrets_are_not_shown():
    user = User(token=SECRET, headers=(("Impersonate-User", SECRET),), key=Material(data=SECRET.encode()))
    plugin = ExecPlugin(api_version=V1, command="login", env=(("KEY", SECRET),))
    access = Access(server=SERVER, user=user, ca=Material(data=SECRET.encode()))
    assert SECRET not in repr([user, plugin, access, access.ca])


# Which files


def test_what_the_environment_names(tmp_path):
    home, account = tmp_path / "home", tmp_path / "account"
    write(home / ".kube" / "config", kubeconfig(context={"namespace": "home"}))
    write(tmp_path / "a", kubeconfig(context={"namespace": "a"}))
    write(account / "token", "t")
    write(account / "namespace", "pod\n")
    env = {"HOME": str(home)}

    def found(context=None, **options):
        return config.find(context, service_account=account, **options).namespace

    in_pod = {**env, "KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    assert found(env=env) == "home"
    assert found(env=in_pod) == "pod"
    assert found("x", env=in_pod) == "home"
    assert found(env={**in_pod, "KUBECONFIG": f"{tmp_path}/missing:{tmp_path}/a:"}) == "a"
    assert found(env={**in_pod, "KUBECONFIG": ":"}) == "pod"
    assert found(env={**env, "KUBECONFIG": str(home / ".kube" / "config")}, kubeconfig=tmp_path / "a") == "a"


def test_a_pod_finds_its_api_server(tmp_path):
    write(tmp_path / "token", "t")
    env = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}
    assert config.in_cluster(env, tmp_path) == Access(
        server="https://[fd00::1]:6443",
        ca=Material(file=tmp_path / "ca.crt"),
        user=User(token_file=tmp_path / "token"),
    )


@pytest.mark.parametrize(
    ("env", "message"),
    [
        pytest.param(
            {"HOME": "/none"}, r"^/none/\.kube/config: expected a kubeconfig file: there is none$", id="no file"
        ),
        pytest.param(
            {"KUBECONFIG": "/a:/b"}, r"^/a:/b: expected a kubeconfig file: there is none$", id="no named file"
        ),
        pytest.param(
            {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},
            r"token: expected the token of the pod's ServiceAccount \(automountServiceAccountToken: true\)$",
            id="a pod without a token",
        ),
    ],
)
def test_nothing_says_where_the_cluster_is(tmp_path, env, message):
    with pytest.raises(BadKubeconfig, match=message):
        config.find(env=env, service_account=tmp_path)
