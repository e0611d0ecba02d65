"""An ordinary program of a Kubernetes user, as the Go client beside it: it takes the in-cluster configuration, lists and watches namespaces
without pause, counts what fails, and prints what it sees, a JSON line each second."""

import datetime
import hashlib
import json
import platform
import sys
import threading
import time

import kubernetes
from kubernetes import client, config, watch

lock = threading.Lock()
report = {"client": f"Python kubernetes {kubernetes.__version__} on Python {platform.python_version()}", "requests": 0, "failures": 0, "lastError": "",
          "user": "", "namespaces": [], "watchEvents": 0}


def counted(doing, request):
    """Makes a request and keeps account of it; returns None if it failed."""
    try:
        result = request()
    except Exception as e:  # whatever a client throws is what its user gets
        with lock:
            report["requests"] += 1
            report["failures"] += 1
            report["lastError"] = f"{doing}: {str(e)[:300]}"
        return None
    with lock:
        report["requests"] += 1
    return result


def follow(core):
    while True:
        def once():
            for _ in watch.Watch().stream(core.list_namespace, timeout_seconds=300):
                with lock:
                    report["watchEvents"] += 1
        counted("watching namespaces", once)
        time.sleep(1)


def main():
    config.load_incluster_config()
    core, authentication = client.CoreV1Api(), client.AuthenticationV1Api()
    configuration = core.api_client.configuration
    threading.Thread(target=follow, args=[client.CoreV1Api()], daemon=True).start()
    n = 0
    while True:
        if n % 10 == 0:
            review = counted("asking who I am", lambda: authentication.create_self_subject_review({}, _request_timeout=30))
            if review:
                report["user"] = review.status.user_info.username
        listed = counted("listing namespaces", lambda: core.list_namespace(_request_timeout=30))
        if listed:
            report["namespaces"] = [i.metadata.name for i in listed.items]
        if n % 2 == 0:
            token = configuration.get_api_key_with_prefix("authorization") or ""
            token = token.removeprefix("bearer ").removeprefix("Bearer ")
            with lock:
                line = dict(report, time=datetime.datetime.now(datetime.timezone.utc).isoformat(), host=configuration.host,
                            tokenSHA256=hashlib.sha256(token.encode()).hexdigest()[:12])
            print(json.dumps(line), flush=True)
        n += 1
        time.sleep(1)


sys.exit(main())
