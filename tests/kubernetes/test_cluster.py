"""What the SREs count on, on a real cluster: nobody notices. In this order, on one service.

Each step sends photos on kept connections, and counts each that does not come back with labels.
"""

import json
import socket
import subprocess
import tarfile
import time
from base64 import b64decode, b64encode
from contextlib import suppress
from io import BytesIO

import pytest
from cluster import CLIENTS, IMAGE, NAMESPACE, kubectl, ready, until
from manifests import COMPONENTS, OVERLAYS, PROJECT, overlay_with
from services import environment, free_port, tool

from samples.shop import write_shop

ENDS_WITHIN_S = 200  # a pod: its grace period, and a reserve
MODEL = PROJECT / "models/fashion/2"


def assert_nothing_lost(sent, note, what, *, more=""):
    said = f"{sent['lost']} lost of {sent['sent']}, longest {sent['longest_s']} s{more}"
    note(what, said)
    assert not sent["outside_the_contract"], said
    assert not sent["lost"], sent


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_everything_is_admitted_without_a_warning(cluster, namespaces, overlay):
    crds = kubectl("get", "crd", "-o", "name")
    for component in ("", *COMPONENTS):
        if component == "monitoring" and "monitoring.coreos.com" not in crds:
            continue
        with overlay_with(overlay, *filter(None, [component])) as folder:
            kubectl("apply", "-k", str(folder), "--dry-run=server", "--warnings-as-errors")


def test_a_first_answer_comes_within_three_minutes(service, note):
    note("first answer after `apply`", f"{service.began_s:.0f} s")
    assert service.began_s < 180
    note("each stage on two nodes, all ready", f"{service.settle():.0f} s later")


def test_ports_open_to_those_who_need_them_alone(service, note):
    (front, *_), head = service.pods("front"), service.head()
    kubectl("create", "namespace", "mlc-stranger")
    try:
        overrides = json.dumps({"spec": {"terminationGracePeriodSeconds": 0}})
        kubectl(
            "-n", "mlc-stranger", "run", "stranger", f"--image={IMAGE}",
            "--image-pull-policy=IfNotPresent", f"--overrides={overrides}",
            "--command", "--", "sleep", "infinity",
        )  # fmt: skip
        kubectl("-n", "mlc-stranger", "wait", "pod/stranger", "--for=condition=Ready")
        places = {"ingress": ("sender", CLIENTS), "stranger": ("stranger", "mlc-stranger")}
        opened = {
            name: {
                f"{pod.metadata.labels['mlc/group']} {port}"
                for pod in (front, head)
                for port in (8000, 6379, 8080, 8265, 10001, 52365)
                if service.opens(*place, pod.status.pod_ip, port)
            }
            for name, place in places.items()
        }
    finally:
        kubectl("delete", "namespace", "mlc-stranger")
    assert opened == {"ingress": {"front 8000"}, "stranger": set()}
    inside = (front.metadata.name, NAMESPACE)
    assert service.opens(*inside, head.status.pod_ip, 6379)
    assert service.opens(*inside, f"mlc-head-svc.{NAMESPACE}", 8265)  # DNS too
    assert not service.opens(*inside, "kubernetes.default", 443)
    assert not service.opens(*inside, "1.1.1.1", 443)
    note("ports from the ingress controller's namespace", "front 8000 alone")
    note("ports from another namespace", "none")
    note("from a front pod", "Ray and DNS; neither the API server nor 1.1.1.1")


def test_products_are_indexed_from_outside_and_found_from_inside(service, note, tmp_path):
    write_shop(tmp_path, 200)
    port = free_port()
    forward = subprocess.Popen(
        ["kubectl", "-n", NAMESPACE, "port-forward", "pod/mlc-postgres", f"{port}:5432"]
    )
    encoded = kubectl(
        "-n", NAMESPACE, "get", "secret", "mlc-postgres", "-o", "jsonpath={.data.password}"
    )
    env = environment(PGPASSWORD=b64decode(encoded).decode())
    try:
        until(lambda: opens(port), "the port is forwarded", 30)
        index = [tool("mlc"), "index", tmp_path, f"postgresql://mlc@127.0.0.1:{port}/mlc"]
        subprocess.run(index, check=True, env=env, cwd=PROJECT, timeout=120)
    finally:
        forward.terminate()
        forward.wait()
    photo = b64encode((tmp_path / "photos/7.jpg").read_bytes()).decode()
    ask = (
        "import base64,json,sys,urllib.request as u\n"
        f"url='http://mlc-serve-svc.{NAMESPACE}:8000/v1/similar?k=1'\n"
        "print(json.load(u.urlopen(url,base64.b64decode(sys.argv[1]),timeout=9))['products'][0])"
    )

    def found():
        said = service.execute("sender", "python", "-c", ask, photo, namespace=CLIENTS)
        return "'id': 'P00007'" in said

    took_s = until(found, "the product of the photo is found", 60)
    note("similar products in PostgreSQL, indexed through a forwarded port", f"{took_s:.0f} s")


def opens(port):
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def drained(service, node, *, fresh):
    with service.load(fresh=fresh) as sent:
        time.sleep(5)
        try:
            service.drain(node)
            until(lambda: not service.leaving(), "clients have left what ends", ENDS_WITHIN_S)
        finally:
            kubectl("uncordon", node)
    return sent


@pytest.mark.parametrize("which", range(3))
def test_a_drained_node_costs_nothing(service, note, which):
    node = service.nodes()[which]
    groups = sorted({
        pod.metadata.labels["mlc/group"] for pod in service.pods() if pod.spec.node_name == node
    })  # fmt: skip
    sent = drained(service, node, fresh=which == 2)
    kind = "a new connection each" if which == 2 else "kept connections"
    what = f"drain of a node with {', '.join(groups) or 'nothing'}; {kind}"
    assert_nothing_lost(sent, note, what)
    note(f"all ready and on two nodes after the drain of {node}", f"{service.settle():.0f} s later")


def test_a_roll_out_costs_nothing(service, note):
    before = service.active()
    with service.load() as sent:
        service.apply(env="\nMLC_ROLL_OUT=1\n")
        until(lambda: service.conditions().get("UpgradeInProgress") == "True", "begins", 60)
        took_s = until(
            lambda: service.conditions()["UpgradeInProgress"] == "False", "traffic has moved", 240
        )
        assert service.active() != before
        old = f"ray.io/cluster={before}"
        listed = service.core.list_namespaced_pod
        until(lambda: not listed(NAMESPACE, label_selector=old).items, "the old pods are gone", 320)
        time.sleep(10)
    assert_nothing_lost(
        sent, note, "roll-out, kept connections", more=f"; moved after {took_s:.0f} s"
    )
    service.settle()


@pytest.mark.parametrize("how", ["evicted", "killed"])
def test_a_lost_head_costs_nothing(service, note, how):
    old = service.head()
    replicas = service.placed()
    with service.load() as sent:
        time.sleep(3)
        kill = ("--grace-period=0", "--force") if how == "killed" else ("--wait=false",)
        kubectl("-n", NAMESPACE, "delete", "pod", old.metadata.name, *kill)

        def back():
            heads = service.pods("head")
            return [p for p in heads if p.metadata.uid != old.metadata.uid and ready(p)]

        took_s = until(back, "the head is back", 120)
        time.sleep(60)  # Serve replaces what it has not found again after 30 s
    assert_nothing_lost(sent, note, f"head {how}", more=f"; back after {took_s:.0f} s")
    service.settle()
    assert service.placed() == replicas


def test_a_lost_redis_costs_nothing(service, note):
    with service.load() as sent:
        time.sleep(3)
        kubectl("-n", NAMESPACE, "delete", "pod", "mlc-redis-0", "--grace-period=0", "--force")
        kubectl("-n", NAMESPACE, "rollout", "status", "statefulset/mlc-redis", "--timeout=120s")
        time.sleep(90)  # the head ends without Redis, and a new one finds the replicas
    assert_nothing_lost(sent, note, "Redis killed")
    service.settle()


def upload(version, *, broken=False):
    """Copy the model that ships to the volume, under another version."""
    spec = json.loads((MODEL / "spec.json").read_text()) | {"version": version}
    file = BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for path in sorted(MODEL.iterdir()):
            content = path.read_bytes()
            if path.name == "spec.json":
                content = json.dumps(spec).encode()
            if path.name == "SHA256SUMS":
                continue
            member = tarfile.TarInfo(f"fashion/{version}/{path.name}")
            member.size = len(content)
            tar.addfile(member, BytesIO(content))
    done = subprocess.run(
        ["kubectl", "-n", NAMESPACE, "exec", "-i", "deployment/mlc-models", "--", "tar", "-C",
         "/models", "-xf", "-"], input=file.getvalue(), check=False, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    sums = 'cd /models/fashion/$0 && S=$(sha256sum *) && echo "$S" >SHA256SUMS'
    spoil = " && echo broken >model.onnx && echo broken >model.int8.onnx" if broken else ""
    kubectl(
        "-n", NAMESPACE, "exec", "deployment/mlc-models", "--", "sh", "-c", sums + spoil, version
    )


def names(version):
    model = {"model": f"/models/fashion/{version}"}
    return {"Classifier": {"user_config": model}}


def test_a_model_from_the_volume_goes_into_service_and_a_broken_one_does_not(service, note):
    upload("3")
    with service.load() as sent:
        service.apply(**names("3"))
        time.sleep(60)
    assert_nothing_lost(sent, note, "a model from the volume")
    assert sent["models"]["fashion/3"] > sent["models"]["fashion/2"]
    upload("4", broken=True)
    with service.load() as sent:
        service.apply(**names("4"))
        time.sleep(30)
    assert_nothing_lost(sent, note, "a broken model from the volume, refused")
    assert set(sent["models"]) == {"fashion/3"}
    service.apply(**names("3"))


def scaled(target, most=3):
    scaling = {"target_ongoing_requests": target, "max_replicas": most, "downscale_delay_s": 10}
    return {"Ingress": {"autoscaling_config": scaling}}


def test_serve_and_the_autoscaler_add_and_remove_pods(service, note):
    def pods():
        return [p for p in service.pods("front") if not p.metadata.deletion_timestamp]

    with service.load() as sent:
        service.apply(**scaled(target=0.02))
        up_s = until(
            lambda: len(service.placed()["Ingress"]) == 3, "three ingresses on ready pods", 180
        )
        service.apply(**scaled(target=48))
        until(lambda: len(service.placed()["Ingress"]) == 2, "two ingresses", 240)
        down_s = until(lambda: len(pods()) == 2, "two pods", 240)
        until(lambda: not service.leaving(), "clients have left the third", ENDS_WITHIN_S)
    assert_nothing_lost(
        sent, note, "scale-up by load and scale-down, kept connections",
        more=f"; up in {up_s:.0f} s, the pod gone {down_s:.0f} s after its replica",
    )  # fmt: skip
    service.apply()
    service.settle()


def test_locust_sends_and_its_page_shows_it(service, note):
    kubectl("-n", NAMESPACE, "rollout", "status", "deployment/mlc-locust-worker", "--timeout=120s")
    page = "deployment/mlc-locust-master"
    ask = (
        "import json,urllib.request as u,urllib.parse as p\n"
        "def get(path, d=None):\n"
        " return u.urlopen('http://127.0.0.1:8089'+path,d,timeout=9).read()\n"
        "def post(path, **d): get(path, p.urlencode(d).encode())\n"
    )

    def locust(code):
        return kubectl("-n", NAMESPACE, "exec", page, "--", "python", "-c", ask + code)

    def stats():
        return json.loads(locust("print(get('/stats/requests').decode())"))

    until(lambda: len(stats()["workers"]) == 2, "both workers are connected", 60)
    locust("post('/swarm', user_count=4, spawn_rate=4)")
    until(lambda: sum(s["num_requests"] for s in stats()["stats"]) > 100, "Locust has sent", 120)
    locust("post('/stop')")
    (total,) = [each for each in stats()["stats"] if each["name"] == "Aggregated"]
    note("Locust", f"{total['num_failures']} failed of {total['num_requests']}")
    assert total["num_failures"] == 0


def test_deletion_leaves_nothing(service, note):
    took_s = service.remove()
    assert NAMESPACE not in service.namespaces()
    note("deletion", f"{took_s:.0f} s, nothing left")
