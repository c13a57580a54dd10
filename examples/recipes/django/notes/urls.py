from django.contrib.auth import views as auth
from django.urls import include, path
from rest_framework import routers

from . import views

router = routers.DefaultRouter()
router.register("notes", views.Notes, basename="note")

urlpatterns = [
    path("accounts/login/", auth.LoginView.as_view(template_name="login.html")),
    path("accounts/logout/", auth.LogoutView.as_view()),
    path("", include(router.urls)),
]
