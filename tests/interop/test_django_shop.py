"""A small shop as one moves it here from Celery: its own tests need no node, its web processes enqueue, and workers work."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from django_project import PROJECT, manage, shell, write_project
from real_programs import WebServer
from support import RunningNode, eventually

FILES = PROJECT | {
    "site1/settings.py": """
from pathlib import Path
SECRET_KEY = "x"
USE_TZ = True
ALLOWED_HOSTS = ["*"]
EMAIL_BACKEND = "django.core.mail.backends.dummy.EmailBackend"
ROOT_URLCONF = "site1.urls"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": Path(__file__).parent / "db"}}
DATABASES["default"]["OPTIONS"] = {"timeout": 60}
DATABASES["default"]["TEST"] = {"NAME": Path(__file__).parent / "test_db"}
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
INSTALLED_APPS = ["shop", "spoolnode.django"]
TASKS = {"default": {"BACKEND": "spoolnode.django.Backend"}}
""",
    "site1/urls.py": """
from django.urls import path
from shop import views
urlpatterns = [path("orders", views.order), path("in-loop/orders", views.order_in_loop)]
""",
    "site1/wsgi.py": """
import os
from django.core.wsgi import get_wsgi_application
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "site1.settings")
application = get_wsgi_application()
""",
    "site1/asgi.py": """
import os
from django.core.asgi import get_asgi_application
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "site1.settings")
application = get_asgi_application()
""",
    "shop/models.py": """
from django.db import models

class Order(models.Model):
    email = models.EmailField()
    paid_at = models.DateTimeField(null=True)
    receipts = models.IntegerField(default=0)

class Payment(models.Model):
    task = models.CharField(max_length=100, unique=True)
    order = models.ForeignKey(Order, on_delete=models.CASCADE)
""",
    "shop/tasks.py": """
from django.core.mail import send_mail
from django.db import models, transaction
from django.utils import timezone

from shop.models import Order, Payment
from spoolnode import current_task, spool
from spoolnode.django.library import tasks

@spool
def pay(order_id):
    with transaction.atomic():
        _, is_new = Payment.objects.get_or_create(task=current_task().origin_id, defaults={"order_id": order_id})
        if is_new:
            Order.objects.filter(id=order_id).update(paid_at=timezone.now())

@tasks.task
def send_receipt(order_id):
    order = Order.objects.get(id=order_id)
    send_mail("Receipt", f"Order {order_id}", "shop@example.org", [order.email])
    Order.objects.filter(id=order_id).update(receipts=models.F("receipts") + 1)
""",
    "shop/views.py": """
from django.db import transaction
from django.http import JsonResponse

from shop.models import Order
from shop.tasks import pay, send_receipt

def order(request):
    with transaction.atomic():
        order = Order.objects.create(email="ada@example.org")
        pay.spool_on_commit(order.id)
        transaction.on_commit(lambda: send_receipt.enqueue(order.id))
    return JsonResponse({"order": order.id})

async def order_in_loop(request):
    order = await Order.objects.acreate(email="bob@example.org")
    await pay.aspool(order.id)
    await send_receipt.aenqueue(order.id)
    return JsonResponse({"order": order.id})
""",
    "shop/tests.py": """
from django.core import mail
from django.test import TestCase

from shop.models import Order
from shop.tasks import pay, send_receipt
from spoolnode.testing import collect

class OrderTest(TestCase):
    def setUp(self):
        self.spooled = self.enterContext(collect())

    def test_an_order_is_paid_once_and_has_a_receipt(self):
        with self.captureOnCommitCallbacks(execute=True):
            number = self.client.get("/orders").json()["order"]
        self.assertEqual([task.args for task in self.spooled], [(number,), (number,)])
        self.spooled.run()
        self.assertIsNotNone(Order.objects.get(id=number).paid_at)
        self.assertEqual([message.to for message in mail.outbox], [["ada@example.org"]])

    def test_nothing_is_enqueued_before_the_commit(self):
        with self.captureOnCommitCallbacks() as callbacks:
            self.client.get("/orders")
        self.assertEqual((len(callbacks), len(self.spooled)), (2, 0))

    async def test_an_order_in_a_loop(self):
        number = (await self.async_client.get("/in-loop/orders")).json()["order"]
        self.assertEqual([task.args for task in self.spooled.of(pay)], [(number,)])
        await self.spooled.arun()
        self.assertEqual(await Order.objects.filter(paid_at=None).acount(), 0)
""",
}
ORDERS = 20


@pytest.fixture
def shop(node: RunningNode) -> RunningNode:
    """A node, stopped, in the directory of the shop."""
    write_project(node, FILES)
    return node


@pytest.mark.slow
def test_its_tests_pass_without_a_node(shop: RunningNode) -> None:
    nowhere = str(shop.directory / "nothing.sock")
    assert "Ran 3 tests" in manage(shop, "test", "shop", SPOOLNODE_VIA=nowhere)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "line"), [("orders", "gunicorn site1.wsgi"), ("in-loop/orders", "uvicorn site1.asgi:application")]
)
def test_each_order_of_its_web_processes_is_paid_once_and_has_one_receipt(
    shop: RunningNode, server: WebServer, path: str, line: str
) -> None:
    shop.start("--app", "site1.settings", "--workers", "2")
    server.start(line, f"/{path}", SPOOLNODE_VIA=shop.via, PYTHONPATH=str(shop.directory))
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: server.ask(f"/{path}"), range(ORDERS)))
    numbers = [answer["order"] for answer in answers]
    count = 2 * (ORDERS + 1)  # with the request for which the server was waited
    eventually(lambda: shop.status()["done"] == count, "all have ended")
    program = (
        f"from shop.models import *\nprint(Order.objects.filter(id__in={numbers}, paid_at__isnull=False, receipts=1).count())"
    )
    assert shell(shop, program) == [str(ORDERS)]
    assert shell(shop, "print(Payment.objects.count())") == [str(ORDERS + 1)]
