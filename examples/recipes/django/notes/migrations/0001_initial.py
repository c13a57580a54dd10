from django.conf import settings
from django.contrib.auth.hashers import make_password
from django.db import migrations, models


def samples(apps, _):
    """Two people, whose password is `secret`, and their notes."""
    users, notes = apps.get_model("auth", "User").objects, apps.get_model("notes", "Note").objects
    password = make_password("secret")
    for name in ["ann", "bob"]:
        user = users.create(username=name, password=password)
        for text, public in [(f"Everybody may read what {name} wrote.", True), (f"Only {name} knows.", False)]:
            notes.create(owner=user, text=text, public=public)
    notes.create(owner=user, text="A long one. " * 100, public=True)


class Migration(migrations.Migration):
    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
        ("auth", "0012_alter_user_first_name_max_length"),
    ]

    operations = [
        migrations.CreateModel(
            name="Note",
            fields=[
                ("id", models.AutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("text", models.TextField()),
                ("public", models.BooleanField(default=True)),
                ("owner", models.ForeignKey(on_delete=models.deletion.CASCADE, to=settings.AUTH_USER_MODEL)),
            ],
        ),
        migrations.RunPython(samples),
    ]
