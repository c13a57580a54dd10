from django.db.models import Q
from rest_framework import permissions, serializers, viewsets
from rest_framework.decorators import action
from rest_framework.response import Response

from .models import Note


class NoteSerializer(serializers.HyperlinkedModelSerializer):
    owner = serializers.CharField(source="owner.username", read_only=True)

    class Meta:
        model = Note
        fields = ["url", "id", "owner", "text", "public"]


class IsOwnerOrReadOnly(permissions.IsAuthenticatedOrReadOnly):
    def has_object_permission(self, request, view, note):
        return request.method in permissions.SAFE_METHODS or note.owner == request.user


class Notes(viewsets.ModelViewSet):
    """Everybody sees the public ones; a logged-in user sees their own too."""

    serializer_class = NoteSerializer
    permission_classes = [IsOwnerOrReadOnly]

    def get_queryset(self):
        own = Q(owner=self.request.user) if self.request.user.is_authenticated else Q()
        return Note.objects.filter(Q(public=True) | own if own else Q(public=True)).order_by("id")

    def perform_create(self, serializer):
        serializer.save(owner=self.request.user)

    @action(detail=False, permission_classes=[permissions.IsAuthenticated])
    def mine(self, request):
        notes = self.get_queryset().filter(owner=request.user)
        return Response({"owner": request.user.username, "texts": [note.text for note in notes]})
