# povid_jax in a container. For NVIDIA GPUs: --build-arg EXTRAS=cuda13
FROM python:3.12-slim
ARG EXTRAS=data
WORKDIR /povid_jax
COPY . .
RUN pip install --no-cache-dir -e ".[${EXTRAS}]"
# every command once, on the CPU: an image that does not work is not built
RUN JAX_PLATFORMS=cpu python -m benchmarks.smoke
ENTRYPOINT ["python", "-m"]
CMD ["povid_jax.train", "--help"]
