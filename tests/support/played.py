"""A pipeline that a test plays."""

import asyncio


class PlayedPipeline:
    """The dispatcher as routes use it. A test says what becomes of a photo, by `submit`."""

    def submit_all(self, photos, choice, request_id):
        return [self.submit(photo, choice, request_id) for photo in photos]

    def refusal(self, _size_bytes):
        return None

    async def wait(self, submitted):
        return await submitted

    async def wait_for_all(self, submitted):
        return await asyncio.gather(*submitted, return_exceptions=True)
